"""The guide to fusion and the script of its results: examples run, flags are read, what is absent is skipped with a reason."""

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from panmodal.errors import InputError
from panmodal.evaluation.config import FusionInput, RunConfig
from panmodal.fusion.base import fusions

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "fusion.md"


@pytest.fixture(scope="module")
def text():
    return GUIDE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fusion_replogle", ROOT / "benchmarks" / "fusion_replogle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_fusion_that_the_guide_writes_down_can_be_read(text):
    given = re.findall(r'--fusion (?:"([^"]+)"|([^\s`)]+))', text)
    found = [FusionInput.parse(quoted or plain) for quoted, plain in given]
    assert {"kernels", "stack", "attention"} <= {f.method for f in found} and len(found) >= 8
    for one in found:
        if one.method in fusions() and not fusions()[one.method].missing():
            one.resolve()
        elif one.method != "attention":
            raise AssertionError(one.method)


def test_the_config_of_the_guide_is_read(text):
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    config = RunConfig(screen="s.h5ad", embeddings=("a.csv",), out="o", **yaml.safe_load(block))
    assert [f.method for f in config.fusions] == ["kernels", "stack"] and config.fusions[1].of == ("string", "text")
    config.fusions[1].resolve()


def test_the_arrays_of_the_guide_run(text):
    code = next(c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "FusionCV" in c)
    here = {}
    exec(code, here)
    assert here["model"].predict(here["test"]).shape == (20, 40)


def test_the_guide_names_every_method(text):
    table = text[text.index("## Methods") : text.index("## Missing modalities")]
    assert set(fusions()) <= set(re.findall(r"`([a-z_]+)`", table))


def test_the_script_skips_what_is_not_there(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fusion_replogle.py", str(tmp_path), str(tmp_path / "out")])
    assert script.main() == 0 and "there is no" in capsys.readouterr().out
    for name in (script.SCREEN, script.FOLDS, "one.csv"):
        (tmp_path / name).touch()
    monkeypatch.setattr("sys.argv", ["fusion_replogle.py", str(tmp_path), str(tmp_path / "out"), "--embedding",
                                     f"a={tmp_path / 'one.csv'}", "--embedding", "b=gone.csv"])  # fmt: skip
    assert script.main() == 0
    said = capsys.readouterr().out
    assert "skipped b: there is no file gone.csv" in said and "1 embedding(s) are there; a fusion needs two" in said


def test_the_script_runs_each_method_over_all_and_some_over_one(script):
    found = script.wanted(["a", "b"], attention=False, alone=True)
    assert {f.method for f in found if f.of is None} == {
        n for n, f in fusions().items() if n != "attention" and not f.missing()
    }
    assert [(f.method, f.name, f.of) for f in found if f.of] == [
        ("kernels", "a-alone", ("a",)),
        ("kernels", "b-alone", ("b",)),
    ]
    with pytest.raises(InputError):
        FusionInput.parse("kernels(members=0)")


def test_the_script_prints_a_row_for_every_fusion(script):
    row = {"context": "K-562", "embedding": "fusion", "probe": "kernels", "single": "string", "single_probe": "lasso", "value": 14.5,
           "single_value": 15.0, "gain": 0.5, "gain_low": 0.4, "gain_high": 0.6, "improved": 0.77, "alone": "string", "gain_alone": 0.2,
           "alone_low": 0.1, "alone_high": 0.3}  # fmt: skip
    gains = pd.DataFrame(
        [{**row, "metric": "L2"}, {**row, "metric": "PDS_cosine", "value": 0.82, "single_value": 0.79}]
    )
    lines = script.printed(gains)
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| K-562 | kernels | 14.50 | 0.50 (0.40 to 0.60) | 77 % | 0.820 |" in lines[-1]
        and "0.20 (0.10 to 0.30) over string" in lines[-1]
    )
