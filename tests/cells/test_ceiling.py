import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from panmodal.cells import gather
from panmodal.cells.ceiling import CeilingOptions, make_ceilings
from panmodal.cells.prepare import PrepareOptions, open_cells, prepare
from panmodal.cells.simulate import expected_lfc, simulate_cells
from panmodal.screens.ceilings import ESTIMATORS, Ceilings
from panmodal.screens.screen import Screen

SMALL = {"n_cells": 4000, "n_perturbations": 12, "n_genes": 60, "n_batches": 3, "umis": 120.0, "seed": 3}
PLATES = {**SMALL, "kind": "plates", "n_batches": 4, "control_share": 0.3}
LINE = "sim-line-A"
QUICK = CeilingOptions(outer=3, inner=2, halves=3, label_draws=3, null_draws=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ceilings")


@dataclass
class Experiment:
    """A simulated file, its screen, and the same cells as plain arrays."""

    truth: Any
    cells: Any
    screen: Screen

    def __post_init__(self):
        data = anndata.read_h5ad(self.cells.paths[0])
        counts = data.X.toarray().astype(float)
        totals = counts.sum(axis=1, keepdims=True)
        self.values = np.log1p(counts * (1e4 / np.where(totals > 0, totals, 1)))
        obs = data.obs.astype(str)
        self.pert = obs["drug" if "drug" in obs else "perturbation"].to_numpy()
        self.batch = obs["plate" if "drug" in obs else "batch"].to_numpy()
        self.context = obs["cell_line"].to_numpy()
        self.control = "DMSO_TF" if "drug" in obs else "non-targeting"

    def of(self, pert, context=LINE):
        """Values and batches of the cells of a perturbation."""
        own = (self.pert == pert) & (self.context == context)
        return self.values[own], self.batch[own]

    def controls(self, context=LINE):
        return self.of(self.control, context)

    def draw(self, path, options=None, **how):
        make_ceilings(self.cells, self.screen, path, options, **{"n_jobs": 1, **how})
        return Ceilings(path)


def experiment(path, prepared=None, keep=None, **options):
    """Simulate, leave out cells if asked, and prepare."""
    truth = simulate_cells(path, **options)
    if keep is not None:
        data = anndata.read_h5ad(path)
        data[keep(data.obs.astype(str))].copy().write_h5ad(path)
    cells = open_cells([path], prepared)
    return Experiment(truth, cells, prepare(cells, n_jobs=1))


@pytest.fixture(scope="module")
def pooled(folder):
    return experiment(folder / "pooled.h5ad", contexts=("one", "two"), **{**SMALL, "n_cells": 5000})


@pytest.fixture(scope="module")
def plates(folder):
    return experiment(folder / "plates.h5ad", **PLATES, effect=1.5)


@pytest.fixture(scope="module")
def pooled_draws(pooled, folder):
    return pooled.draw(folder / "pooled.ceilings.h5")


@pytest.fixture(scope="module")
def plates_draws(plates, folder):
    return plates.draw(folder / "plates.ceilings.h5")


@pytest.fixture(scope="module")
def nothing(folder):
    """Perturbed cells that are all like control cells."""
    return experiment(folder / "nothing.h5ad", **{**SMALL, "n_cells": 6000, "n_perturbations": 30, "n_batches": 2},
                      efficiency=0.0, control_share=0.3, batch_effect=0.3)  # fmt: skip


@pytest.fixture(scope="module")
def nothing_draws(nothing, folder):
    return nothing.draw(folder / "nothing.ceilings.h5")


@pytest.fixture(scope="module")
def idle_plates(folder):
    """Compounds without any effect."""
    return experiment(
        folder / "idle.h5ad", **{**PLATES, "n_perturbations": 24, "n_cells": 6000}, effect=0.0, batch_effect=0.3
    )


@pytest.fixture(scope="module")
def plates_controls(folder):
    """Plates with far more control cells than cells of a compound."""
    return experiment(folder / "controls.h5ad", **{**PLATES, "control_share": 0.8}, effect=1.5)


@pytest.fixture(scope="module")
def strong(folder):
    """Large effects in many cells."""
    return experiment(
        folder / "strong.h5ad",
        **{**SMALL, "n_perturbations": 6, "umis": 400.0},
        effect=3.0,
        responders=1.0,
        efficiency=1.0,
    )


def contents(path, rows=None):
    """Everything in a file: arrays by name (the rows asked for, where they are of perturbations), and attributes."""
    found = {}

    def look(name, node):
        found.update({f"{name}:{k}": str(v) for k, v in node.attrs.items()})
        if isinstance(node, h5py.Dataset):
            found[name] = node[:] if rows is None or "contexts/" not in name else node[:][rows]

    with h5py.File(path, "r") as handle:
        handle.visititems(look)
        look("", handle)
    return found


def differing(one, two):
    assert one.keys() == two.keys()

    def same(a, b):
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a == b

    return {k.rsplit("/", 1)[-1] for k in one if not same(one[k], two[k])}


def pairs(ceilings, name, screen, context=LINE, mean=0.0):
    """Truths and predictions: draws x perturbations x genes."""
    ids, point = screen.responses(context)
    found = list(ceilings.pairs(context, ESTIMATORS[name], ids, point, np.full(point.shape[1], mean)))
    return np.stack([t for t, _ in found]), np.stack([p for _, p in found])


def l2(a, b):
    return np.linalg.norm(a - b, axis=-1)


def means_of(values, batch, batches):
    return np.stack([values[batch == b].mean(axis=0) for b in batches])


# --- what results depend on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pooled", "plates"])
@pytest.mark.parametrize("how", ["threads", "chunks", "files"])
def test_no_result_depends_on_how_it_is_computed(kind, how, request, tmp_path, monkeypatch):
    run, known = request.getfixturevalue(kind), request.getfixturevalue(f"{kind}_draws")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    given = {"n_jobs": 2} if how == "threads" else {"chunk_values": 777, "n_jobs": 1}
    if how == "files":
        monkeypatch.setattr(gather, "SMALLEST_CHUNK", 64)
        room = gather.FIXED + 100 * len(run.pert) + 8 * int((run.values > 0).sum())
        given = {"memory": room / 2**30, "n_jobs": 2}
    seen, there = [], set()

    def progress(*at):
        seen.append(at)
        there.update(p.name for folder in temporary.iterdir() for p in folder.iterdir())

    again = run.draw(tmp_path / "again.ceilings.h5", progress=progress, **given)
    assert differing(contents(known.path), contents(again.path)) == set()
    assert bool(there) == (how == "files")
    n = len(run.screen.adata)
    assert seen == [(k + 1, n) for k in range(n)]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("kind", ["pooled", "plates"])
def test_a_perturbation_does_not_depend_on_the_others(kind, request, tmp_path):
    run, known = request.getfixturevalue(kind), request.getfixturevalue(f"{kind}_draws")
    context = run.screen.contexts[-1]
    ids = run.screen.ids_in(context)
    kept = [ids[k] for k in (1, 4, 7, 8)]
    obs = run.screen.adata.obs
    own = (obs["pert_id"].isin(kept) & (obs["cell_line"] == context)).to_numpy()
    make_ceilings(
        run.cells, Screen(run.screen.adata[own].copy(), "some", "lfc"), tmp_path / "some.h5", CeilingOptions(), n_jobs=1
    )
    few = Ceilings(tmp_path / "some.h5")
    assert few.contexts == [context] and few.pert_ids(context) == kept
    everything, alone = contents(known.path, [1, 4, 7, 8]), contents(few.path)
    number = known.contexts.index(context)
    drawn = [
        f"contexts/{number}/{k}"
        for k in ("bootstrap", "half1", "half2", "side1", "side2", "shrink", "labels", "pert_id")
    ]
    drawn += [
        f"contexts/{number}/quality/{k}" for k in ("n_cells", "n_batches", "response_norm", "n_deg", "reliability")
    ]
    for name in drawn:
        np.testing.assert_array_equal(everything[name], alone[name.replace(f"/{number}/", "/0/")], err_msg=name)


def test_the_null_of_a_perturbation_does_not_depend_on_the_others(pooled, pooled_draws, tmp_path):
    smallest = pooled.screen.adata.obs.query("cell_line == 'one'")["n_cells"].nsmallest(3).index
    make_ceilings(
        pooled.cells, Screen(pooled.screen.adata[smallest].copy(), "some", "lfc"), tmp_path / "some.h5", n_jobs=1
    )
    alone = Ceilings(tmp_path / "some.h5").quality("one").set_index("pert_id")
    together = pooled_draws.quality("one").set_index("pert_id").loc[alone.index]
    np.testing.assert_array_equal(alone[["null_norm", "norm_p"]], together[["null_norm", "norm_p"]])


def test_another_seed_draws_others(plates, plates_draws, tmp_path):
    other = plates.draw(tmp_path / "other.h5", CeilingOptions(seed=43))
    changed = differing(contents(plates_draws.path), contents(other.path))
    assert changed == {":options", "bootstrap", "half1", "half2", "side1", "side2", "shrink", "labels", "null_norm", "norm_p",
                       "reliability"}  # fmt: skip
    again = plates.draw(tmp_path / "again.h5", CeilingOptions(seed=43))
    assert differing(contents(again.path), contents(other.path)) == set()


# --- what is drawn --------------------------------------------------------------------------------------------------------


def test_all_estimators_are_drawn_as_published(pooled, pooled_draws, plates, plates_draws):
    for run, made, draws, splits in ((pooled, pooled_draws, 100, 3), (plates, plates_draws, 200, 3)):
        context = run.screen.contexts[0]
        assert [e.name for e in made.estimators(context)] == list(ESTIMATORS)
        n = {e: pairs(made, e, run.screen, context)[1].shape for e in ESTIMATORS}
        assert n["experimental_error"] == (draws, 12, 60)
        assert n["disjoint_halves"] == n["interpolated_duplicate"] == (10, 12, 60)
        # Three batches make three splits in two, and so do four.
        assert n["replicate_batches"] == (splits, 12, 60)
        assert made.labels(context).shape == (12, 20, 60)
        assert made.options["inner"] == draws // 10 and made.options["seed"] == 42
        assert made.options["rule"] == ("pooled" if run is pooled else "matched")
        assert made.options["deg"] == ("pooled" if run is pooled else "vote")


def test_one_batch_has_no_replicates(pooled, tmp_path, refuses):
    path = pooled.cells.paths[0]
    cells = open_cells([path], PrepareOptions(batch_col="none", contexts=("two",)))
    screen = prepare(cells, n_jobs=1)
    make_ceilings(cells, screen, tmp_path / "one.h5", QUICK, n_jobs=1)
    assert [e.name for e in Ceilings(tmp_path / "one.h5").estimators("two")] == [
        "experimental_error", "disjoint_halves", "interpolated_duplicate"]  # fmt: skip
    refuses(
        ["pooled.h5ad", "'two'", "replicate_batches", "at least two batches", "--batch-col"], make_ceilings, cells, screen,
        tmp_path / "none.h5", CeilingOptions(estimators=("disjoint_halves", "replicate_batches")), n_jobs=1,
    )  # fmt: skip
    refuses(
        ["'noise'", *ESTIMATORS],
        make_ceilings,
        cells,
        screen,
        tmp_path / "none.h5",
        CeilingOptions(estimators=("noise",)),
    )
    assert [p.name for p in tmp_path.iterdir()] == ["one.h5"]


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_one_estimator_alone(plates, tmp_path, name):
    made = plates.draw(
        tmp_path / "alone.h5", CeilingOptions(estimators=(name,), outer=2, inner=1, halves=2, null_draws=0)
    )
    both = {"disjoint_halves", "interpolated_duplicate"}
    assert {e.name for e in made.estimators(LINE)} == (both if name in both else {name})
    assert np.isfinite(pairs(made, name, plates.screen)[1]).any(axis=(0, 2)).all()
    quality = made.quality(LINE)
    assert quality["reliability"].notna().all() == (name in both)
    assert quality[["null_norm", "norm_p"]].isna().all(axis=None) and quality["response_norm"].notna().all()


def naive_mean(rng, values, batch, order):
    return np.mean(
        [values[rng.choice(np.flatnonzero(batch == b), (batch == b).sum())].mean(axis=0) for b in order], axis=0
    )


@pytest.mark.parametrize("kind", ["pooled", "plates"])
def test_bootstrap_draws_have_the_law_of_gathering_cells_again(kind, request, tmp_path):
    # Plates with many control cells: with few the draws would differ a little (see test_resample.py).
    run = request.getfixturevalue(f"{kind}_controls" if kind == "plates" else kind)
    context, rng = run.screen.contexts[0], np.random.default_rng(0)
    made = run.draw(
        tmp_path / "b.h5",
        CeilingOptions(estimators=("experimental_error",), outer=800, inner=1, label_draws=0, null_draws=0),
    )
    truth, drawn = pairs(made, "experimental_error", run.screen, context)
    base, base_batch = run.controls(context)
    ids, point = run.screen.responses(context)
    np.testing.assert_array_equal(truth, np.broadcast_to(point, truth.shape))
    for k in (2, 9):
        values, batch = run.of(ids[k], context)
        own, all_batches = np.unique(batch), np.unique(base_batch)
        naive = []
        for _ in range(800):
            order = rng.choice(own, len(own))
            against = order if kind == "plates" else rng.choice(all_batches, len(all_batches))
            naive.append(naive_mean(rng, values, batch, order) - naive_mean(rng, base, base_batch, against))
        ours, naive = l2(drawn[:, k], point[k]), l2(np.array(naive), point[k])
        assert ours.mean() == pytest.approx(naive.mean(), rel=0.05)
        assert np.quantile(ours, 0.9) == pytest.approx(np.quantile(naive, 0.9), rel=0.07)
        assert stats.ks_2samp(ours, naive).pvalue > 0.005


def test_perturbations_draw_apart(pooled, folder, tmp_path):
    # The same cells under a second name.
    data = anndata.read_h5ad(pooled.cells.paths[0])
    data.obs["perturbation"] = data.obs["perturbation"].astype(str)
    name = pooled.screen.ids_in("one")[0]
    twin = data[data.obs["perturbation"] == name].copy()
    twin.obs["perturbation"] = "TWIN"
    twin.obs_names = [f"{n}-twin" for n in twin.obs_names]
    anndata.concat([data, twin]).write_h5ad(folder / "twins.h5ad")
    cells = open_cells([folder / "twins.h5ad"])
    screen = prepare(cells, n_jobs=1)
    make_ceilings(cells, screen, tmp_path / "twins.h5", CeilingOptions(outer=400, inner=1, null_draws=0), n_jobs=1)
    made = Ceilings(tmp_path / "twins.h5")
    a, b = (screen.ids_in("one").index(i) for i in (name, "TWIN"))
    point = screen.responses("one")[1]
    np.testing.assert_allclose(point[a], point[b], atol=1e-6)
    drawn = pairs(made, "experimental_error", screen, "one")[1]
    values, batch = pooled.of(name, "one")
    rng, batches = np.random.default_rng(0), np.unique(batch)
    naive = np.array([naive_mean(rng, values, batch, rng.choice(batches, len(batches))) for _ in range(400)])
    # Cells are drawn anew for each, control draws are chosen for each, so that chance averages out over perturbations.
    spread = drawn[:, a].var(axis=0).sum() + drawn[:, b].var(axis=0).sum()
    assert (drawn[:, a] - drawn[:, b]).var(axis=0).sum() == pytest.approx(spread, rel=0.1)
    assert drawn[:, a].var(axis=0).sum() > 1.5 * naive.var(axis=0).sum()
    assert (made.labels("one")[a] != made.labels("one")[b]).any(axis=1).mean() > 0.2
    one, two = pairs(made, "disjoint_halves", screen, "one")
    assert (l2(one[:, a], one[:, b]) > 0.1).all() and (l2(two[:, a], two[:, b]) > 0.1).all()


def test_sides_are_responses_from_batches_apart(pooled, pooled_draws, plates, plates_draws):
    for run, made in ((pooled, pooled_draws), (plates, plates_draws)):
        context = run.screen.contexts[-1]
        one, two = pairs(made, "replicate_batches", run.screen, context)
        base, base_batch = run.controls(context)
        batches = np.unique(base_batch)
        base = means_of(base, base_batch, batches)
        half = len(batches) // 2
        seen = set()
        for k, pert in enumerate(run.screen.ids_in(context)):
            values, batch = run.of(pert, context)
            own = {b: values[batch == b].mean(axis=0) for b in np.unique(batch)}

            def response(side, own=own, base=base, batches=batches, matched=run is plates):
                held = [b for b in side if b in own]
                if not held:
                    return np.full(60, np.nan)
                controls = base[np.isin(batches, held if matched else side)].mean(axis=0)
                return np.mean([own[b] for b in held], axis=0) - controls

            splits = []
            for code in range(2 ** len(batches)):
                side = [b for j, b in enumerate(batches) if code >> j & 1]
                if len(side) == half:
                    splits.append((side, [b for b in batches if b not in side]))
            for draw in range(len(one)):
                found = [
                    s for s, (a, b) in enumerate(splits)
                    if np.allclose(one[draw, k], response(a), atol=4e-3, equal_nan=True)
                    and np.allclose(two[draw, k], response(b), atol=4e-3, equal_nan=True)
                ]  # fmt: skip
                assert len(found) >= 1, (pert, draw)
                if len(own) == len(batches):
                    assert len(found) == 1
                    seen.add(found[0])
        if run is pooled:
            assert len(seen) == 3
        else:
            # A compound on two plates has both of them on one side in one of the three splits.
            assert np.isnan(one).all(axis=2).sum() + np.isnan(two).all(axis=2).sum() == 12


def test_halves_add_up_to_the_whole(folder, tmp_path):
    def even(obs):
        """Leave out the odd cell of each perturbation in each batch."""
        groups = obs.groupby([obs.columns[0], "plate", "cell_line"], sort=False)
        return (groups.cumcount() < groups[obs.columns[0]].transform("size") // 2 * 2).to_numpy()

    for rule in ("matched", "pooled"):
        run = experiment(
            folder / f"even-{rule}.h5ad",
            PrepareOptions(rule=rule),
            even,
            **{**PLATES, "n_perturbations": 6, "n_cells": 1500},
        )
        made = run.draw(tmp_path / f"{rule}.h5", CeilingOptions(outer=1, inner=1, null_draws=0))
        one, two = pairs(made, "disjoint_halves", run.screen)
        point = run.screen.responses(LINE)[1]
        np.testing.assert_allclose((one + two) / 2, np.broadcast_to(point, one.shape), atol=4e-3)
        assert l2(one, two).min() > 0.5
        # What is left of each half beside the mean of both is new in each split.
        rest = (one - point).reshape(10, -1)
        assert np.abs(np.corrcoef(rest)[np.triu_indices(10, 1)]).max() < 0.6


def test_separate_controls(pooled, pooled_draws, tmp_path):
    options = CeilingOptions(separate_controls=True, label_draws=0, null_draws=0)
    made = pooled.draw(tmp_path / "apart.h5", options)
    point = pooled.screen.responses("one")[1]
    truth, drawn = pairs(made, "experimental_error", pooled.screen, "one")
    assert (truth == truth[0]).all() and made.options["separate_controls"]
    # The truth is against half of the control cells, the same for all perturbations.
    shift = truth[0] - point
    np.testing.assert_allclose(shift, np.broadcast_to(shift.mean(axis=0), shift.shape), atol=4e-3)
    base, batch = pooled.controls("one")
    expected = np.sqrt(sum(base[batch == b].var(axis=0).sum() / (batch == b).sum() for b in np.unique(batch)) / 9)
    assert 0.7 * expected < np.linalg.norm(shift.mean(axis=0)) < 1.4 * expected
    shared = pairs(pooled_draws, "experimental_error", pooled.screen, "one")
    assert (l2(truth, drawn).mean(axis=0) > 1.1 * l2(*shared).mean(axis=0)).all()
    with h5py.File(pooled_draws.path) as file:
        assert "point" not in file["contexts/0"]


def test_separate_controls_of_a_batch_with_one_control_cell(folder, tmp_path):
    def one_control(obs):
        lone = (obs["drug"] == "DMSO_TF") & (obs["plate"] == "plate1")
        return (~lone | (lone.cumsum() == 1)).to_numpy()

    run = experiment(folder / "lone.h5ad", keep=one_control, **{**PLATES, "n_perturbations": 6, "n_cells": 1500})
    on_plate = [k for k, pert in enumerate(run.screen.ids_in(LINE)) if "plate1" in run.of(pert)[1]]
    assert 2 <= len(on_plate) < 6
    lacking = set()
    for seed in range(4):
        options = CeilingOptions(separate_controls=True, outer=12, inner=1, label_draws=0, null_draws=0, seed=seed)
        truth, drawn = pairs(run.draw(tmp_path / "lone.h5", options), "experimental_error", run.screen)
        # Either side lacks the cell, and has then no response where the plate counts.
        for k in range(6):
            bare = [bool(np.isnan(side[:, k]).all(axis=1).any()) for side in (truth, drawn)]
            assert sum(bare) == (k in on_plate), (seed, k)
            lacking.update(np.flatnonzero(bare))
    assert lacking == {0, 1}


# --- cells that are not those of the screen -------------------------------------------------------------------------------


def test_other_cells_are_refused(pooled, plates, folder, tmp_path, refuses):
    target = tmp_path / "none.h5"

    def draw(cells, screen=pooled.screen, options=QUICK):
        make_ceilings(cells, screen, target, options, n_jobs=1)

    path = pooled.cells.paths[0]
    first = pooled.screen.ids_in("one")[0]
    simulate_cells(folder / "fresh.h5ad", contexts=("one", "two"), cells_seed=9, **{**SMALL, "n_cells": 5000})
    refuses(
        ["fresh.h5ad", f"{first!r}", "'one'", "another response", "differ by up"],
        draw,
        open_cells([folder / "fresh.h5ad"]),
    )
    refuses([f"{first!r}", "another response"], draw, open_cells([path], PrepareOptions(batch_col="none")))
    refuses(
        ["read-outs", "other options"], draw, open_cells([path], PrepareOptions(genes=tuple(pooled.truth.genes[:50])))
    )
    refuses([f"{first} (two)", "prepared from"], draw, open_cells([path], PrepareOptions(contexts=("one",))))
    few = pooled.screen.adata.obs["n_cells"].min() + 1
    missing = pooled.screen.adata.obs["n_cells"].idxmin()
    lost = "{1} ({0})".format(*missing.split("|"))
    refuses([lost, "prepared from"], draw, open_cells([path], PrepareOptions(min_cells=int(few))))
    refuses(["SIMG"], draw, plates.cells)
    adata = anndata.AnnData(
        np.sign(pooled.screen.adata.X),
        obs=pooled.screen.adata.obs[["pert_id", "cell_line"]],
        var=pooled.screen.adata.var,
    )
    refuses(["'labels' holds deg", "log fold changes"], draw, pooled.cells, Screen(adata, "labels", "deg"))
    refuses(["--memory", "too little"], make_ceilings, pooled.cells, pooled.screen, target, QUICK, memory=0.1)
    assert not list(tmp_path.iterdir())


def test_the_same_cells_in_another_way_are_the_same(pooled, pooled_draws, tmp_path):
    # A screen that was written and read, of cells opened afresh.
    pooled.screen.write(tmp_path / "screen.h5ad")
    make_ceilings(
        open_cells([pooled.cells.paths[0]]), Screen.read(tmp_path / "screen.h5ad"), tmp_path / "again.h5", n_jobs=1
    )
    assert differing(contents(pooled_draws.path), contents(tmp_path / "again.h5")) == set()


def test_a_screen_without_labels(plates, tmp_path):
    adata = plates.screen.adata
    bare = anndata.AnnData(adata.X, obs=adata.obs[["pert_id", "cell_line"]], var=adata.var)
    make_ceilings(plates.cells, Screen(bare, "bare", "lfc"), tmp_path / "bare.h5", QUICK, n_jobs=1)
    assert len(Ceilings(tmp_path / "bare.h5").estimators(LINE)) == 4


def test_cells_without_a_test_have_no_label_draws(plates, tmp_path, refuses):
    cells = open_cells(plates.cells.paths, PrepareOptions(deg="none"))
    make_ceilings(cells, prepare(cells, n_jobs=1), tmp_path / "none.h5", QUICK, n_jobs=1)
    made = Ceilings(tmp_path / "none.h5")
    assert len(made.estimators(LINE)) == 4 and made.quality(LINE)["n_deg"].isna().all()
    refuses(["none.h5", "no draws of DEG labels"], made.labels, LINE)


# --- quality --------------------------------------------------------------------------------------------------------------


def test_facts_are_those_of_the_screen(pooled, pooled_draws, plates, plates_draws):
    for run, made in ((pooled, pooled_draws), (plates, plates_draws)):
        for context in run.screen.contexts:
            facts = made.quality(context).set_index("pert_id")
            known = run.screen.adata.obs.query("cell_line == @context").set_index("pert_id")
            assert list(facts.index) == run.screen.ids_in(context) and (facts["context"] == context).all()
            for column in ("n_cells", "n_batches", "n_deg"):
                pd.testing.assert_series_equal(facts[column], known[column].loc[facts.index], check_dtype=False)
            np.testing.assert_allclose(facts["response_norm"], known["response_norm"].loc[facts.index], rtol=1e-5)
            pert = facts.index[3]
            assert facts.loc[pert, "n_cells"] == len(run.of(pert, context)[0])
            assert facts.loc[pert, "n_batches"] == len(set(run.of(pert, context)[1]))


def null_agrees(run, made, matched, rows):
    """Compare null norms with those of control cells gathered again."""
    context, rng = run.screen.contexts[0], np.random.default_rng(0)
    base, base_batch = run.controls(context)
    batches = np.unique(base_batch)
    facts = made.quality(context)

    def again(b, n):
        return base[rng.choice(np.flatnonzero(base_batch == b), n)].mean(axis=0)

    for k in rows:
        batch = run.of(facts["pert_id"][k], context)[1]
        norms = []
        for _ in range(400):
            own = [again(b, (batch == b).sum()) for b in np.unique(batch)]
            against = [again(b, (base_batch == b).sum()) for b in (np.unique(batch) if matched else batches)]
            norms.append(np.linalg.norm(np.mean(own, axis=0) - np.mean(against, axis=0)))
        assert facts["null_norm"][k] == pytest.approx(np.mean(norms), rel=0.03)
        expected = (np.array(norms) >= facts["response_norm"][k]).mean()
        assert facts["norm_p"][k] == pytest.approx(expected, abs=0.12)


def test_null_norms_are_those_of_control_cells(pooled, pooled_draws, plates, plates_draws):
    null_agrees(pooled, pooled_draws, False, [0, 5])
    null_agrees(plates, plates_draws, True, [0, 5])


@pytest.mark.parametrize("rule", ["pooled", "matched"])
def test_null_norms_with_few_control_cells(folder, tmp_path, rule):
    def few(obs):
        rank = obs.groupby(["perturbation", "batch"]).cumcount()
        return ((obs["perturbation"] != "non-targeting") | (rank < 5)).to_numpy()

    run = experiment(
        folder / f"few-{rule}.h5ad", PrepareOptions(rule=rule), few, **{**SMALL, "n_perturbations": 3, "n_cells": 600}
    )
    made = run.draw(tmp_path / "few.h5", CeilingOptions(estimators=("disjoint_halves",), null_draws=1000))
    null_agrees(run, made, rule == "matched", [0, 1, 2])


def test_norms_without_an_effect_are_like_the_null(nothing_draws, idle_plates, tmp_path):
    idle = idle_plates.draw(tmp_path / "idle.h5", CeilingOptions(estimators=("disjoint_halves",)))
    for made in (nothing_draws, idle):
        facts = made.quality(LINE)
        p = facts["norm_p"]
        assert 0.35 < p.mean() < 0.65 and p.min() >= 1 / 201 and p.max() <= 1
        assert (p < 0.1).mean() < 0.25 and (p > 0.9).mean() < 0.25
        assert stats.kstest(p, "uniform").pvalue > 0.01
        assert facts["response_norm"].mean() == pytest.approx(facts["null_norm"].mean(), rel=0.05)
        # Nothing is repeatable but what the shared controls bring along.
        assert abs(facts["reliability"].mean()) < 0.12


def test_strong_effects_show(strong, tmp_path):
    facts = strong.draw(tmp_path / "strong.h5", CeilingOptions(halves=5, outer=1)).quality(LINE)
    np.testing.assert_allclose(facts["norm_p"], 1 / 201)
    assert (facts["response_norm"] > 3 * facts["null_norm"]).all()
    assert (facts["reliability"] > 0.95).all() and (facts["reliability"] <= 1).all()


def test_reliability_is_the_correlation_of_halves_stepped_up(plates, plates_draws):
    one, two = pairs(plates_draws, "disjoint_halves", plates.screen)
    r = np.array([[stats.pearsonr(one[d, k], two[d, k]).statistic for d in range(10)] for k in range(12)]).mean(axis=1)
    assert r.max() > 0.5 and r.min() < 0.1
    np.testing.assert_allclose(
        plates_draws.quality(LINE)["reliability"], np.where(r > 0, 2 * r / (1 + r), r), atol=2e-3
    )


# --- laws -----------------------------------------------------------------------------------------------------------------


def error_ceiling(run, path):
    made = run.draw(path, CeilingOptions(estimators=("experimental_error",), label_draws=0, null_draws=0))
    truth, drawn = pairs(made, "experimental_error", run.screen)
    return np.quantile(l2(truth, drawn), 0.9, axis=0).mean()


def test_the_ceiling_falls_with_the_root_of_the_cells(folder, tmp_path):
    options = {**SMALL, "n_perturbations": 8, "n_genes": 50, "n_batches": 2, "batch_effect": 0.0}
    errors = [
        error_ceiling(experiment(folder / f"n{n}.h5ad", **{**options, "n_cells": n}), tmp_path / f"{n}.h5")
        for n in (1500, 3000, 9000)
    ]
    assert errors[0] / errors[1] == pytest.approx(2**0.5, rel=0.12)
    assert errors[0] / errors[2] == pytest.approx(6**0.5, rel=0.12)


@pytest.mark.parametrize("n_batches", [1, 3])
def test_the_bootstrap_knows_how_far_the_truth_is(folder, tmp_path, n_batches):
    options = {"n_cells": 2400, "n_perturbations": 6, "n_genes": 40, "n_batches": n_batches, "umis": 60.0, "effect": 1.5,
               "batch_effect": 0.0, "control_share": 0.2, "seed": 11}  # fmt: skip
    replicates = [experiment(folder / f"replicate{s}.h5ad", cells_seed=s, **options) for s in range(6)]
    truth = expected_lfc(replicates[0].truth, LINE, n=12_000 // n_batches)
    order = [replicates[0].truth.pert_ids.index(i) for i in replicates[0].screen.ids_in(LINE)]
    actual = [l2(r.screen.responses(LINE)[1], truth[order]) for r in replicates]
    made = [
        r.draw(tmp_path / f"{k}.h5", CeilingOptions(estimators=("experimental_error",), label_draws=0, null_draws=0))
        for k, r in enumerate(replicates[:3])
    ]
    drawn = [l2(*pairs(m, "experimental_error", r.screen)) for m, r in zip(made, replicates, strict=False)]
    # Drawing batches again on top of cells counts the noise of the cells once more, but for one batch in B.
    twice = 2 - 1 / n_batches
    assert np.mean(drawn) == pytest.approx(np.mean(actual) * twice**0.5, rel=0.1)
    assert np.mean(np.square(drawn)) == pytest.approx(np.mean(np.square(actual)) * twice, rel=0.15)


def test_halves_of_noise_do_not_correlate(nothing, nothing_draws):
    one, two = pairs(nothing_draws, "disjoint_halves", nothing.screen)
    r = np.array(
        [[stats.pearsonr(a, b).statistic for a, b in zip(o, t, strict=True)] for o, t in zip(one, two, strict=True)]
    )
    assert abs(r.mean()) < 0.08
    assert np.linalg.norm(one, axis=2).min() > 0.5


def test_the_interpolated_duplicate_lies_between_half_and_mean(plates, plates_draws, nothing, nothing_draws):
    for run, made in ((plates, plates_draws), (nothing, nothing_draws)):
        half, mean = pairs(made, "disjoint_halves", run.screen)[1], 0.3
        truth, drawn = pairs(made, "interpolated_duplicate", run.screen, mean=mean)
        np.testing.assert_array_equal(truth, pairs(made, "disjoint_halves", run.screen)[0])
        with h5py.File(made.path) as file:
            weight = file["contexts/0/shrink"][:].astype(float).swapaxes(0, 1)
        assert weight.min() >= 0 and weight.max() <= 1 and weight.shape == half.shape
        np.testing.assert_allclose(drawn, weight * half + (1 - weight) * mean)
        assert (drawn >= np.minimum(half, mean) - 1e-9).all() and (drawn <= np.maximum(half, mean) + 1e-9).all()
        if run is plates:
            assert (weight > 0.9).mean() > 0.05 and weight[:, np.abs(half).mean(axis=(0, 2)) > 0.3].mean() > 0.1
    shrunk = l2(*pairs(nothing_draws, "interpolated_duplicate", nothing.screen))
    assert (shrunk.mean(axis=0) < 0.9 * l2(*pairs(nothing_draws, "disjoint_halves", nothing.screen)).mean(axis=0)).all()
    assert weight.mean() < 0.2


def adjusted_p(a, b):
    """Student-Welch test of each gene, Benjamini-Hochberg: signs and adjusted p."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        t, p = stats.ttest_ind(a, b, axis=0, equal_var=False)
    return np.sign(np.nan_to_num(t)), stats.false_discovery_control(np.where(np.isnan(p), 1.0, p))


def correlations(a, b):
    """Pearson correlation over draws of each gene."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def test_shrinking_is_by_the_p_values_of_the_half(folder, tmp_path):
    run = experiment(
        folder / "shrink.h5ad",
        **{**SMALL, "n_batches": 1, "n_perturbations": 4, "n_cells": 2000},
        effect=3.0,
        responders=1.0,
    )
    made = run.draw(tmp_path / "shrink.h5", CeilingOptions(outer=0, halves=100, null_draws=0))
    with h5py.File(made.path) as file:
        weight = file["contexts/0/shrink"][:].astype(float)
    rng = np.random.default_rng(0)
    base = run.controls()[0]
    other, half = pairs(made, "disjoint_halves", run.screen)
    for k, pert in enumerate(run.screen.ids_in(LINE)):
        values = run.of(pert)[0]
        naive = np.array([
            1 - adjusted_p(values[rng.permutation(len(values))[: len(values) // 2]],
                           base[rng.permutation(len(base))[: len(base) // 2]])[1]
            for _ in range(100)
        ])  # fmt: skip
        error = np.sqrt((naive.var(axis=0) + weight[k].var(axis=0)) / 100) + 2e-3
        assert np.abs((naive.mean(axis=0) - weight[k].mean(axis=0)) / error).max() < 4.5
        assert naive.mean(axis=0).max() > 0.9
        # It is the test of the half that predicts, against its own control cells, which are few here.
        assert np.mean([r for r in correlations(np.abs(half[:, k]), weight[k]) if np.isfinite(r)]) > 0.6
        assert np.mean([r for r in correlations(np.abs(other[:, k]), weight[k]) if np.isfinite(r)]) < 0


# --- labels ---------------------------------------------------------------------------------------------------------------


def naive_label(a, b):
    sign, p = adjusted_p(a, b)
    return np.where(p <= 0.05, sign, 0.0)


def rates_agree(ours, naive):
    """Shares of draws in which a gene is raised, and lowered, are the same."""
    assert set(np.unique(ours)) <= {-1, 0, 1}
    n = len(ours)
    for label in (-1, 1):
        a, b = (ours == label).mean(axis=0), (naive == label).mean(axis=0)
        error = np.sqrt((a * (1 - a) + b * (1 - b)) / n) + 0.5 / n
        assert np.abs((a - b) / error).max() < 4.5
        assert np.abs(a - b).mean() < 0.03
    assert np.abs(ours).sum() == pytest.approx(np.abs(naive).sum(), rel=0.06)
    # The labels are not the same in all draws, or nothing was resampled.
    assert ((ours != 0).mean(axis=0) % 1 > 0).sum() > 3


LABELS = CeilingOptions(estimators=("experimental_error",), outer=1, inner=1, label_draws=150, null_draws=0)


@pytest.mark.parametrize("prepared", [None, PrepareOptions(rule="matched", deg="pooled")])
def test_label_draws_are_those_of_cells_gathered_again(pooled, tmp_path, prepared):
    cells = open_cells(pooled.cells.paths, prepared)
    screen = prepare(cells, n_jobs=1)
    make_ceilings(cells, screen, tmp_path / "labels.h5", LABELS, n_jobs=1)
    drawn = Ceilings(tmp_path / "labels.h5").labels("two")
    base, rng = pooled.controls("two")[0], np.random.default_rng(0)
    for k in (1, 6):
        values = pooled.of(screen.ids_in("two")[k], "two")[0]
        naive = np.array([naive_label(values[rng.integers(0, len(values), len(values))], base) for _ in range(150)])
        rates_agree(drawn[k], naive)


def test_label_draws_keep_what_is_sure(strong, plates, tmp_path):
    for run, limit in ((strong, 1e-7), (plates, 1e-4)):
        drawn = run.draw(tmp_path / "labels.h5", LABELS).labels(LINE)
        point = run.screen.adata.layers["deg"]
        base, base_batch = run.controls()
        sure, idle = np.zeros(point.shape, dtype=bool), np.zeros(point.shape, dtype=bool)
        for k, pert in enumerate(run.screen.adata.obs["pert_id"]):
            values, batch = run.of(pert)
            tests = [adjusted_p(values[batch == b], base[base_batch == b])[1] for b in np.unique(batch)]
            sure[k], idle[k] = np.max(tests, axis=0) < limit, np.min(tests, axis=0) > 0.9
        assert sure.sum() > 20 and (point[sure] != 0).all()
        assert (drawn.swapaxes(1, 2)[sure] == point[sure][:, None]).mean() > 0.99
        if run is plates:
            assert idle.sum() > 20 and (drawn.swapaxes(1, 2)[idle] == 0).mean() > 0.97


def test_votes_of_plates_are_drawn_again(plates, tmp_path):
    drawn = plates.draw(tmp_path / "labels.h5", LABELS).labels(LINE)
    base, base_batch = plates.controls()
    rng = np.random.default_rng(0)
    for k in (0, 7):
        values, batch = plates.of(plates.screen.ids_in(LINE)[k])
        naive = []
        for _ in range(150):
            votes = []
            for b in np.unique(batch):
                own = values[batch == b]
                votes.append(naive_label(own[rng.integers(0, len(own), len(own))], base[base_batch == b]))
            # Two plates: what both say, or what one says and the other does not deny.
            naive.append(np.sign(np.sum(votes, axis=0)))
        assert len(votes) == 2
        rates_agree(drawn[k], np.array(naive))


def test_rows_that_are_not_tested_have_no_labels(folder, tmp_path):
    def few(obs):
        rank = obs.groupby(obs.columns[0]).cumcount()
        first = sorted(set(obs.iloc[:, 0]) - {"non-targeting"})[:2]
        return ((obs.iloc[:, 0] != first[0]) | (rank < 30)).to_numpy() & (
            (obs.iloc[:, 0] != first[1]) | (rank < 31)
        ).to_numpy()

    run = experiment(
        folder / "few.h5ad", keep=few, **{**SMALL, "n_perturbations": 5, "umis": 400.0}, effect=3.0, responders=1.0
    )
    assert run.screen.adata.obs["n_cells"].tolist()[:2] == [30, 31]
    made = run.draw(tmp_path / "few.h5", CeilingOptions(null_draws=0))
    drawn, facts = made.labels(LINE), made.quality(LINE)
    assert not drawn[0].any() and np.isnan(facts["n_deg"][0])
    assert all(drawn[k].any(axis=1).all() for k in range(1, 5)) and (facts["n_deg"][1:] > 0).all()


def test_plates_with_few_cells_do_not_vote(folder, tmp_path):
    most = [{"plate1": 20, "plate2": 20}, {"plate1": 21, "plate2": 20}, {"plate1": 20, "plate2": 40}]

    def thin(obs):
        rank = obs.groupby(["drug", "plate"]).cumcount()
        limits = dict(zip(sorted(set(obs["drug"]) - {"DMSO_TF"}), most, strict=False))
        limit = [limits.get(d, {}).get(p, 9999) for d, p in zip(obs["drug"], obs["plate"], strict=True)]
        return (rank < limit).to_numpy()

    run = experiment(folder / "thin.h5ad", keep=thin, **{**PLATES, "umis": 400.0, "n_perturbations": 4, "n_batches": 2}, effect=3.0,
                     responders=1.0)  # fmt: skip
    assert run.screen.adata.obs["n_cells"].tolist()[:3] == [40, 41, 60]
    drawn = run.draw(tmp_path / "thin.h5", LABELS).labels(LINE)
    assert not drawn[0].any() and all(drawn[k].any(axis=1).all() for k in (1, 2, 3))
    base, base_batch = run.controls()
    rng = np.random.default_rng(0)
    for k, plate in ((1, "plate1"), (2, "plate2")):
        values, batch = run.of(run.screen.ids_in(LINE)[k])
        own, against = values[batch == plate], base[base_batch == plate]
        rates_agree(
            drawn[k], np.array([naive_label(own[rng.integers(0, len(own), len(own))], against) for _ in range(150)])
        )
