"""The public names, and that they cost nothing until they are used."""

import subprocess
import sys

import pytest

import panmodal

HEAVY = ["torch", "rdkit", "dask", "matplotlib", "anndata", "pandas", "sklearn", "scipy"]


def loaded_after(statement):
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "statement",
    ["import panmodal; dir(panmodal); panmodal.__version__", "import panmodal.cli", "from panmodal import InputError"],
)
def test_import_loads_nothing_heavy(statement):
    assert loaded_after(statement) == []


def test_running_loads_neither_deep_learning_nor_plotting():
    loaded = loaded_after("from panmodal import run, rescore, leaderboard, make_split, Screen, Embedding")
    assert "pandas" in loaded and not {"torch", "rdkit", "dask", "matplotlib"} & set(loaded)


@pytest.mark.parametrize("name", panmodal.__all__)
def test_public_names_exist_and_are_documented(name):
    found = getattr(panmodal, name)
    assert name in dir(panmodal)
    if callable(found):
        assert found.__name__ == name and found.__module__.startswith("panmodal.")
        assert found.__doc__ and not found.__doc__.startswith(f"{name}(")  # not the one a dataclass makes


def test_all_is_complete():
    assert set(panmodal.__all__) == set(panmodal._WHERE) | {"__version__"}


@pytest.mark.parametrize("name", ["nonsense", "_nonsense", "Ridge"])
def test_unknown_names_are_attribute_errors(name):
    with pytest.raises(AttributeError, match=f"'panmodal' has no attribute '{name}'"):
        getattr(panmodal, name)


def test_errors_can_be_caught_by_their_base():
    assert issubclass(panmodal.LeakError, panmodal.InputError)
    for error in (panmodal.InputError, panmodal.StoreError):
        assert issubclass(error, panmodal.PanmodalError)
    assert issubclass(panmodal.InputError, ValueError) and issubclass(panmodal.StoreError, RuntimeError)
