"""What the docs promise: generated pages are up to date, examples run."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_builders_is_up_to_date():
    written = (DOCS / "builders.md").read_text(encoding="utf-8")
    assert written == load(DOCS / "make_builders.py", "make_builders").reference(), "run python docs/make_builders.py"


def test_the_builder_of_the_how_to_works(tmp_path, monkeypatch):
    from panmodal.embeddings import embed

    text = (DOCS / "embeddings.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "BUILDERS" in c]
    path = tmp_path / "gene_age.py"
    path.write_text(code, encoding="utf-8")
    (record,) = load(path, "gene_age").BUILDERS
    monkeypatch.setattr(embed, "get_builder", lambda name: record)
    made = embed.make_embedding("gene-age", **record.example(tmp_path))
    assert made.embedding.ids == ("TP53", "MYC", "EGFR") and dict(made.left_out) == {"BRCA1": "no age"}
    assert embed.regenerate(made.embedding).embedding.digest == made.embedding.digest


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.glob("*.md")))
def test_links_lead_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if not t.startswith(("http", "mailto"))]
    assert [t for t in targets if not (DOCS / t).exists()] == []


def test_every_builder_that_the_how_to_names_is_there():
    from panmodal.embeddings.builders import builders

    text = (DOCS / "embeddings.md").read_text(encoding="utf-8")
    table = text[text.index("| from | builder") : text.index("[builders.md]")]
    named = {
        n
        for row in table.splitlines()[2:]
        if row.startswith("|")
        for n in re.findall(r"`([a-z][a-z0-9-]*)`", row.split("|")[2])
    }
    assert named - set(builders()) == set()
    missing = set(builders()) - named - {"table"}
    assert not missing, missing
    for name, rest in re.findall(r"panmodal embed ([a-z0-9-]+)([^`\n|]*)", text):
        if name in builders():
            flags = {f.replace("-", "_") for f in re.findall(r"--([a-z-]+)", rest)}
            common = {"ids", "out", "report", "name", "modality", "licence", "citation", "trained_on", "help", "match"}
            assert flags - set(builders()[name].options) - common == set(), name
