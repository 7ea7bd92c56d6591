import json
import shutil

import anndata
import h5py
import numpy as np
import pytest

from panmodal.cells.ceiling import CeilingOptions, make_ceilings
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.simulate import simulate_cells
from panmodal.screens.ceilings import ESTIMATORS, FORMAT, Ceilings, ceilings_path, read_beside
from panmodal.screens.screen import Screen

OPTIONS = {"outer": 2, "inner": 2, "halves": 3, "label_draws": 2, "null_draws": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A screen of two contexts beside its ceilings; of the third perturbation there is one cell in context one."""
    folder = tmp_path_factory.mktemp("beside")
    simulate_cells(folder / "cells.h5ad", n_cells=1500, n_perturbations=8, n_genes=20, n_batches=2, umis=60.0,
                   contexts=("one", "two"))  # fmt: skip
    data = anndata.read_h5ad(folder / "cells.h5ad")
    obs = data.obs.astype(str)
    lone = (obs["perturbation"] == sorted(set(obs["perturbation"]))[2]) & (obs["cell_line"] == "one")
    data[(~lone | (lone.cumsum() == 1)).to_numpy()].copy().write_h5ad(folder / "cells.h5ad")
    cells = open_cells([folder / "cells.h5ad"], PrepareOptions(min_cells=1))
    screen = prepare(cells, name="toy", n_jobs=1)
    screen.write(folder / "toy.h5ad")
    make_ceilings(cells, screen, ceilings_path(folder / "toy.h5ad"), CeilingOptions(**OPTIONS), n_jobs=1)
    make_ceilings(cells, screen, folder / "seed.h5", CeilingOptions(**OPTIONS, seed=1), n_jobs=1)
    make_ceilings(cells, screen, folder / "apart.h5", CeilingOptions(**OPTIONS, separate_controls=True), n_jobs=1)
    return folder, screen


@pytest.fixture
def copy(made, tmp_path):
    """The ceilings, to be spoilt."""
    return shutil.copy(made[0] / "toy.ceilings.h5", tmp_path / "copy.h5")


def draws(path, context, name):
    """One array as it is in the file: draws x perturbations x read-outs."""
    with h5py.File(path) as file:
        group = next(g for g in file["contexts"].values() if g.attrs["context"] == context)
        return group[name][:].astype(float).swapaxes(0, 1)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("context", ["one", "two"])
def test_pairs_are_in_the_order_asked_for(made, name, context):
    folder, screen = made
    ceilings, estimator = Ceilings(folder / "toy.ceilings.h5"), ESTIMATORS[name]
    ids, point = screen.responses(context)
    mean = np.linspace(-1, 1, 20)
    truth, prediction = (draws(folder / "toy.ceilings.h5", context, k) if k != "point" else None
                         for k in (estimator.truth, estimator.prediction))  # fmt: skip
    for order in ([0, 1, 2, 3, 4, 5, 6, 7], [5, 2, 7, 0], [3]):
        found = list(ceilings.pairs(context, estimator, [ids[k] for k in order], point[order], mean))
        assert len(found) == len(prediction) > 0
        for draw, (t, p) in enumerate(found):
            expected = prediction[draw, order]
            if name == "interpolated_duplicate":
                weight = draws(folder / "toy.ceilings.h5", context, "shrink")[draw, order]
                assert (weight > 0.1).any() and (weight < 0.9).any()
                expected = expected * weight + mean * (1 - weight)
            np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-12)
            np.testing.assert_array_equal(t, point[order] if truth is None else truth[draw, order])
            assert t.dtype == p.dtype == np.float64


def test_what_is_predicted_from_what():
    roles = {e.name: (e.truth, e.prediction, e.shrink, e.quantile, e.half_size) for e in ESTIMATORS.values()}
    assert roles == {
        "experimental_error": ("point", "bootstrap", None, 0.9, False),
        "disjoint_halves": ("half1", "half2", None, None, True),
        "replicate_batches": ("side1", "side2", None, None, True),
        "interpolated_duplicate": ("half1", "half2", "shrink", None, False),
    }
    assert ESTIMATORS["interpolated_duplicate"].arrays == ("half1", "half2", "shrink")
    assert ESTIMATORS["experimental_error"].arrays == ("bootstrap",)


def test_the_own_truth_of_separate_controls(made):
    folder, screen = made
    ids, point = screen.responses("two")
    order = [4, 1]
    asked = ("two", ESTIMATORS["experimental_error"], [ids[k] for k in order], point[order], np.zeros(20))
    for truth, _ in Ceilings(folder / "apart.h5").pairs(*asked):
        np.testing.assert_array_equal(truth, draws(folder / "apart.h5", "two", "point")[0, order])
        assert np.abs(truth - point[order]).max() > 0.05
    halves = Ceilings(folder / "apart.h5").pairs("two", ESTIMATORS["disjoint_halves"], ids, point, np.zeros(20))
    np.testing.assert_array_equal(next(halves)[0], draws(folder / "apart.h5", "two", "half1")[0])


def test_a_perturbation_with_one_cell_has_no_halves(made):
    folder, screen = made
    ceilings = Ceilings(folder / "toy.ceilings.h5")
    ids, point = screen.responses("one")
    quality = ceilings.quality("one")
    assert quality["n_cells"][2] == 1 and quality["n_batches"][2] == 1 and np.isnan(quality["reliability"][2])
    assert quality["reliability"].drop(2).notna().all() and quality[["null_norm", "norm_p"]].notna().all(axis=None)
    others = np.delete(np.arange(8), 2)
    # One cell is in one half, and in one of the two batches.
    for name in ("disjoint_halves", "interpolated_duplicate", "replicate_batches"):
        for truth, prediction in ceilings.pairs("one", ESTIMATORS[name], ids, point, np.zeros(20)):
            sides = [np.isnan(truth[2]), np.isnan(prediction[2])]
            assert all(side.all() or not side.any() for side in sides)
            assert sides[0].any() != sides[1].any()
            assert np.isfinite(truth[others]).all() and np.isfinite(prediction[others]).all()
    # The one cell is drawn again and again; only the controls vary.
    for truth, prediction in ceilings.pairs("one", ESTIMATORS["experimental_error"], ids, point, np.zeros(20)):
        assert 0 < np.linalg.norm(prediction[2] - truth[2]) < 0.5 * np.linalg.norm(truth[2])


def test_what_a_file_tells(made):
    folder, screen = made
    ceilings = Ceilings(folder / "toy.ceilings.h5")
    assert ceilings.contexts == ["one", "two"] and ceilings.readouts == screen.readouts
    assert ceilings.options["halves"] == 3 and ceilings.options["seed"] == 42 and ceilings.options["rule"] == "pooled"
    for context in ceilings.contexts:
        assert ceilings.pert_ids(context) == screen.ids_in(context)
        assert ceilings.responses(context) == screen.digest(context)
        assert [e.name for e in ceilings.estimators(context)] == list(ESTIMATORS)
        assert ceilings.labels(context).shape == (8, 2, 20) and ceilings.labels(context).dtype == np.int8
        quality = ceilings.quality(context)
        assert list(quality) == ["context", "pert_id", "n_cells", "n_batches", "response_norm", "null_norm", "norm_p", "n_deg",
                                 "reliability"]  # fmt: skip
        assert (quality["context"] == context).all() and quality["pert_id"].tolist() == screen.ids_in(context)
    assert not np.array_equal(ceilings.quality("one")["n_cells"], ceilings.quality("two")["n_cells"])


def test_the_digest_knows_responses_and_seed(made):
    folder, _ = made
    files = [Ceilings(folder / f) for f in ("toy.ceilings.h5", "seed.h5", "apart.h5")]
    digests = {f.digest(c) for f in files for c in ("one", "two")}
    assert len(digests) == 6
    assert Ceilings(folder / "toy.ceilings.h5").digest("one") == files[0].digest("one")


def test_ceilings_lie_beside_their_screen(made, tmp_path):
    folder, _ = made
    assert ceilings_path(folder / "toy.h5ad") == folder / "toy.ceilings.h5"
    assert ceilings_path("some/where/a.b.zarr").as_posix() == "some/where/a.b.ceilings.h5"
    beside = read_beside(folder / "toy.h5ad")
    assert beside is not None and beside.path == folder / "toy.ceilings.h5"
    beside.check(Screen.read(folder / "toy.h5ad"))
    assert read_beside(folder / "cells.h5ad") is None
    assert read_beside(tmp_path / "none.h5ad") is None


def changed(screen, contexts=None, **options):
    """The same screen with one value of context one a little different, or with other names of its contexts."""
    values = np.array(screen.adata.X)
    values[0, 0] += 1e-3 if contexts is None else 0.0
    obs = screen.adata.obs
    lines = obs["cell_line"].replace(contexts or {})
    return Screen.from_arrays(values, obs["pert_id"], lines, screen.readouts, name="other", response="lfc", **options)


def test_other_responses_are_refused(made, refuses):
    folder, screen = made
    ceilings = Ceilings(folder / "toy.ceilings.h5")
    ceilings.check(screen)
    assert str(screen.adata.obs["cell_line"].iloc[0]) == "one"
    other = changed(screen)
    refuses(["toy.ceilings.h5", "'other'", "'one'", "panmodal ceiling", "--no-ceilings"], ceilings.check, other)
    # The other context is as it was.
    ceilings.check(other.select(["two"]))
    ceilings.check(screen.select(["one"]))
    refuses(["'one'"], ceilings.check, Screen(screen.adata[1:].copy(), "fewer", "lfc"))
    labels = Screen.from_arrays(screen.adata.layers["deg"], screen.adata.obs["pert_id"], screen.adata.obs["cell_line"],
                                screen.readouts, name="labels", response="deg")  # fmt: skip
    refuses(["'labels'"], ceilings.check, labels)


def test_unknown_contexts_are_refused(made, refuses):
    folder, screen = made
    ceilings = Ceilings(folder / "toy.ceilings.h5")
    refuses(
        ["toy.ceilings.h5", "'one', 'two'", "'three', 'four'"],
        ceilings.check,
        changed(screen, {"one": "three", "two": "four"}),
    )
    # Contexts that the file does not have do not matter beside one that it has.
    ceilings.check(changed(screen, {"one": "three"}))


# --- files that are no ceilings -------------------------------------------------------------------------------------------


def test_files_of_another_kind_are_refused(made, tmp_path, refuses):
    folder, _ = made
    refuses(["none.h5"], Ceilings, tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("pert_id,gene\nA,1\n" * 100)
    (tmp_path / "empty.h5").write_bytes(b"")
    with h5py.File(tmp_path / "bare.h5", "w") as file:
        file["matrix"] = np.zeros(3)
    shutil.copy(folder / "toy.h5ad", tmp_path / "screen.h5")
    for name in ("text", "empty", "bare", "screen"):
        refuses([f"{name}.h5", "cannot be read as ceilings", "panmodal ceiling"], Ceilings, tmp_path / f"{name}.h5")
    (tmp_path / "folder.h5").mkdir()
    refuses(["folder.h5"], Ceilings, tmp_path / "folder.h5")


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_files_are_refused(copy, refuses, share):
    whole = copy.read_bytes()
    copy.write_bytes(whole[: int(share * len(whole))])
    refuses(["copy.h5", "cannot be read as ceilings"], Ceilings, copy)


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.attrs.pop("format"),
        lambda f: f.attrs.__setitem__("format", "first"),
        lambda f: f.attrs.pop("options"),
        lambda f: f.attrs.modify("options", "{seed: 42"),
        lambda f: f.pop("readouts"),
        lambda f: f.pop("contexts"),
        lambda f: f["contexts/0"].attrs.pop("context"),
        lambda f: f["contexts/1"].attrs.pop("responses"),
        lambda f: f["contexts/1"].pop("pert_id"),
    ],
)
def test_spoilt_files_are_refused(copy, refuses, change):
    assert Ceilings(copy).contexts == ["one", "two"]
    edit(copy, change)
    refuses(["copy.h5", "cannot be read as ceilings"], Ceilings, copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f.pop("readouts"), f.create_dataset("readouts", data=np.arange(3.0))),
        lambda f: (f.pop("contexts"), f.create_dataset("contexts", data=np.arange(3.0))),
        lambda f: f.attrs.__setitem__("format", np.arange(3)),
    ],
)
def test_files_with_other_things_of_the_same_names_are_refused(copy, refuses, change):
    edit(copy, change)
    refuses(["copy.h5", "cannot be read as ceilings"], Ceilings, copy)


def test_files_damaged_within_are_refused(copy, refuses):
    whole = copy.read_bytes()
    assert Ceilings(copy).contexts == ["one", "two"]
    for mark in (b"TREE", b"SNOD"):
        # Every tree or node but those of the root, which alone is needed to open the file.
        first = whole.index(mark) + 4
        copy.write_bytes(whole[:first] + whole[first:].replace(mark, b"LOST"))
        refuses(["copy.h5", "cannot be read as ceilings"], Ceilings, copy)


@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_another_format_is_refused(copy, refuses, version):
    edit(copy, lambda f: f.attrs.modify("format", version))
    refuses([f"format {version}", f"reads {FORMAT}", "panmodal ceiling"], Ceilings, copy)


def test_another_format_with_other_things_in_it_is_refused(copy, refuses):
    edit(copy, lambda f: (f.attrs.modify("format", 2), f.pop("readouts")))
    refuses(["format 2"], Ceilings, copy)


def test_arrays_that_are_not_there_make_no_estimator(copy, refuses):
    edit(copy, lambda f: (f["contexts/0"].pop("shrink"), f["contexts/0"].pop("side1"), f["contexts/0"].pop("labels")))
    ceilings = Ceilings(copy)
    assert [e.name for e in ceilings.estimators("one")] == ["experimental_error", "disjoint_halves"]
    assert len(ceilings.estimators("two")) == 4
    refuses(["copy.h5", "no draws of DEG labels"], ceilings.labels, "one")
    assert ceilings.labels("two").any()


def test_options_are_those_of_the_file(copy):
    before = Ceilings(copy).digest("one")
    options = {**Ceilings(copy).options, "outer": 11}
    edit(copy, lambda f: f.attrs.modify("options", json.dumps(options)))
    assert Ceilings(copy).options["outer"] == 11 and Ceilings(copy).digest("one") != before
