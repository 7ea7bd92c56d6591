import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from panmodal import Card, Embedding, Screen
from panmodal.errors import InputError

settings.register_profile("panmodal", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("panmodal")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data (../shared/data) is not here")
    return folder


@pytest.fixture
def refuses() -> Callable[..., None]:
    """Check that a call is refused with a message that says all of ``says``."""

    def check(says, function, *args, error=InputError, **options) -> None:
        with pytest.raises(error) as caught:
            function(*args, **options)
        missing = [part for part in says if part not in str(caught.value)]
        assert not missing, f"{missing} not in: {caught.value}"

    return check


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., pd.DataFrame]:
    """Make a tidy score table by hand: {(embedding, probe[, role]): one value per fold}, the same under every fallback."""

    def make(methods, *, metric="L2", covered=10, **labels) -> pd.DataFrame:
        task = {
            "screen": "screen",
            "context": "ctx",
            "response": "lfc",
            "split": "unseen",
            "seed": 42,
            "simulated": False,
            "seen": "no",
        }
        records = []
        for (embedding, probe, *role), values in methods.items():
            share = covered.get(embedding, 10) if isinstance(covered, dict) else covered
            for fold, value in enumerate(values):
                for fallback in ("filled", "covered", "common"):
                    records.append({
                        **task, "fold": fold, "embedding": embedding, "probe": probe, "role": (role or ["embedding"])[0],
                        "modality": "toy", "fallback": fallback, "metric": metric, "value": value, "n_test": 100,
                        "n_covered": 10 * share, "hyperparameters": "{}", "trial": f"{embedding}-{probe}-{fold}",
                        "n_scored": 100, "n_undefined": 0, **labels,
                    })  # fmt: skip
        return pd.DataFrame(records)

    return make


@pytest.fixture(scope="session")
def toy() -> Callable[..., tuple[Screen, list[Embedding]]]:
    """Make a small screen with planted structure and two embeddings of it, the second without every fifth id."""

    def make(n: int = 60, genes: int = 25, contexts: tuple[str, ...] = ("A", "B"), seed: int = 0):
        rng = np.random.default_rng(seed)
        latents = rng.standard_normal((n, 5))
        ids = [f"P{k:03d}" for k in range(n)]
        blocks = [latents @ rng.standard_normal((5, genes)) + rng.standard_normal((n, genes)) + 0.5 for _ in contexts]
        screen = Screen.from_arrays(
            np.vstack(blocks), ids * len(contexts), [c for c in contexts for _ in ids], [f"g{g}" for g in range(genes)],
            name="toy", response="lfc",
        )  # fmt: skip
        good = latents @ rng.standard_normal((5, 8))
        some = [k for k in range(n) if k % 5]
        return screen, [
            Embedding(tuple(ids), good, Card(name="full", modality="toy")),
            Embedding(
                tuple(ids[k] for k in some),
                good[some] + rng.standard_normal((len(some), 8)),
                Card(name="part", modality="toy"),
            ),
        ]

    return make


@pytest.fixture
def both(capsys, monkeypatch):
    """Run the command line in this process; return what it printed and what it said on stderr."""

    from panmodal.cli import main

    def call(*args, code=0):
        monkeypatch.setattr(sys, "argv", ["panmodal", *map(str, args)])
        try:
            main()
            found = 0
        except SystemExit as stop:
            found = stop.code or 0
        printed = capsys.readouterr()
        assert found == code, printed
        assert "Traceback" not in printed.err
        return printed

    return call


@pytest.fixture
def cli(both):
    """Run the command line in this process; return what it printed (and on stderr, for errors)."""

    def call(*args, code=0):
        printed = both(*args, code=code)
        return printed.err if code else printed.out

    return call
