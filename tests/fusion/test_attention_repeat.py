"""The attention fusion: same seed, same bits, also after a kill; torch is left as it was."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from panmodal.fusion.base import ContextTargets, Modalities, Setting, get_fusion
from panmodal.probes.design import Targets

torch = pytest.importorskip("torch")
FUSION = get_fusion("attention")
QUICK = {"d_model": 16, "heads": 2, "layers": 1, "epochs": 12, "head_width": 16, "learning_rate": 0.01, "patience": 100}


def make(n=40, t=6):
    rng = np.random.default_rng(5)
    x, z = rng.standard_normal((n, 5)), rng.standard_normal((n, 3))
    z[::4] = np.nan
    y = x @ rng.standard_normal((5, t)) + 0.1 * rng.standard_normal((n, t))
    own = ContextTargets(np.arange(n), Targets.of(y))
    return Modalities.of({"a": x, "b": z}), {"A": own, "B": ContextTargets(own.rows, Targets.of(2 * y + 1))}


def fit(folder=None, progress=None, seed=1, threads=1, **options):
    data, contexts = make()
    setting = Setting(seed=seed, threads=threads, folder=folder, progress=progress)
    return FUSION.fit(data, contexts, FUSION.settings({**QUICK, **options}), setting)


def predictions(fitted):
    return np.concatenate([fitted.predict(make()[0], c).values for c in ("A", "B")])


def facts(fitted):
    return {k: v for k, v in fitted.hyperparameters.items() if k != "seconds"}, fitted.tables()


def test_same_seed_same_bits_whatever_the_user_does():
    first = fit()
    torch.manual_seed(12345)
    with torch.no_grad():
        second = fit()
    assert (predictions(first) == predictions(second)).all() and facts(first) == facts(second)
    assert (predictions(fit(seed=2)) != predictions(first)).any()


def test_torch_is_left_as_it_was():
    before_threads = torch.get_num_threads()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.manual_seed(9)
        state = torch.get_rng_state()
        with torch.inference_mode():
            fitted = fit(threads=2, epochs=2)
            found = predictions(fitted)
            assert torch.is_inference_mode_enabled()
        assert (torch.get_rng_state() == state).all()
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == before_threads
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
    assert (predictions(fit(threads=2, epochs=2)) == found).all()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(ArithmeticError):
            fit(learning_rate=1e30, warmup=0, clip=1e30)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [3, 7, 12, 13, 19])
@pytest.mark.parametrize("options", [{}, {"preset": "simple", "refit": True}], ids=str)
def test_an_interrupted_fit_goes_on_to_the_same_result(tmp_path, at, options):
    whole = fit(**options)

    def stop(done, total):
        if done == at:
            raise Stop

    seen = []
    with contextlib.suppress(Stop):
        fit(tmp_path, stop, **options)
    resumed = fit(tmp_path, lambda done, total: seen.append(done), **options)
    if at > 5 and at <= facts(whole)[0]["best_epoch"] + 12:
        assert seen[0] > 1, "it began anew"
    assert (predictions(resumed) == predictions(whole)).all() and facts(resumed) == facts(whole)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_foreign_checkpoint_is_not_used(tmp_path):
    whole = predictions(fit())

    def stop(done, total):
        if done == 6:
            raise Stop

    for damage in ("cut", "text", "foreign", "pickle"):
        folder = tmp_path / damage
        with pytest.raises(Stop):
            fit(folder, stop)
        (path,) = folder.iterdir()
        raw = path.read_bytes()
        if damage == "cut":
            path.write_bytes(raw[: len(raw) // 2])
        elif damage == "text":
            path.write_text("nothing")
        elif damage == "foreign":
            saved = torch.load(path, weights_only=True)
            torch.save({**saved, "digest": "other"}, path)
        else:
            torch.save({"format": 1, "state": Path(damage)}, path)
        seen = []
        assert (predictions(fit(folder, lambda done, total, seen=seen: seen.append(done))) == whole).all()
        assert seen[0] == 1 and list(folder.iterdir()) == []
    folder = tmp_path / "others"
    with pytest.raises(Stop):
        fit(folder, stop, seed=7)
    assert (predictions(fit(folder)) == whole).all()
    assert len(list(folder.iterdir())) == 1, "the checkpoint of another seed is not ours to remove"


KILLED = """
import sys
import importlib.util
spec = importlib.util.spec_from_file_location("repeat", sys.argv[1])
repeat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(repeat)
from pathlib import Path
import time

def slow(done, total):
    print(done, flush=True)
    time.sleep(0.05 if done < 7 else 60)

repeat.fit(Path(sys.argv[2]), slow)
"""


def test_a_killed_process_goes_on_to_the_same_result(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", KILLED, __file__, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        for line in child.stdout:
            if int(line) == 7:
                break
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait(timeout=30)
        child.stdout.close()
    assert child.returncode == -signal.SIGKILL
    assert [p.suffix for p in tmp_path.iterdir()] == [".pt"]
    seen = []
    resumed = fit(tmp_path, lambda done, total: seen.append(done))
    assert seen[0] == 6 and (predictions(resumed) == predictions(fit())).all()
    assert list(tmp_path.iterdir()) == []
