"""The command line, end to end on a small simulated screen."""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

import panmodal.cli
from panmodal import METRICS, Embedding, Store
from panmodal._version import __version__
from panmodal.cli import main
from panmodal.embeddings.card import Card
from panmodal.evaluation.config import RunConfig
from panmodal.evaluation.evidence import read_marks
from panmodal.insight.leaderboard import leaderboard, summary
from panmodal.probes.base import probes
from panmodal.screens.simulate import simulate_responses
from panmodal.screens.splits import read_split

COMMANDS = ["run", "leaderboard", "inspect", "list", "rescore", "split", "demo"]
TRIALS = 3 * (2 + 2 * 4)  # folds x (baselines + probes x (two embeddings, random, idealised))


def python_m(*args, cwd=None):
    return subprocess.run([sys.executable, "-m", "panmodal", *map(str, args)], capture_output=True, text=True, cwd=cwd)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A screen of 60 perturbations x 30 read-outs and two embeddings of it."""
    folder = tmp_path_factory.mktemp("data")
    screen, planted = simulate_responses(n_perturbations=60, n_genes=30, contexts=("one",), seed=1)
    screen.write(folder / "screen.h5ad")
    for name, file in {"sim-full": "full.parquet", "sim-partial": "partial.h5ad"}.items():
        ids, vectors = planted[name]
        Embedding(tuple(ids), vectors, Card(name=name, modality="planted", simulated=True)).write(folder / file)
    return folder


def run_args(data, out):
    return [
        *("run", "--screen", data / "screen.h5ad", "--out", out, "--folds", 3, "--jobs", 1),
        *("--embedding", data / "full.parquet", "--embedding", f"part={data / 'partial.h5ad'}"),
        *("--probe", "knn", "--probe", "ridge"),
    ]


@pytest.fixture(scope="module")
def done(data):
    """A finished run: what it printed, and its folder (not to be changed)."""
    finished = python_m(*run_args(data, data / "results"))
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def results(data, done):
    return data / "results"


@pytest.fixture
def copy(results, tmp_path):
    return shutil.copytree(results, tmp_path / "copy")


# --- run -------------------------------------------------------------------------------------------------------------


def test_run_says_what_it_does_and_what_comes_out(done):
    assert "simulated: 60 perturbations x 1 context(s)" in done
    assert "part: covers 36 of 60 ids (60.0 %); missing 'SIM" in done
    assert f"{TRIALS} trials: 5 embeddings, controls and baselines, 3 folds" in done
    assert f"{TRIALS} trials computed, 0 found done." in done
    assert "SIMULATED" in done and "idealised (oracle)" in done and "60 %" in done


def test_run_leaves_scores_config_and_folds(results, data):
    scores = Store(results).scores()
    assert scores["trial"].nunique() == TRIALS and set(scores["metric"]) == {
        m for m in METRICS if "lfc" in METRICS[m].kinds
    }
    assert set(scores["embedding"]) == {"none", "sim-full", "part", "random", "idealised"}
    config = RunConfig(**yaml.safe_load((results / "config.yaml").read_text()))
    assert config.screen == str(data / "screen.h5ad") and config.folds == 3 and config.probes == ("knn", "ridge")
    (folds,) = (results / "splits").glob("*.csv")
    assert len(read_split(folds).folds) == 60


def test_run_again_computes_nothing_and_changes_no_score(cli, data, copy):
    before = Store(copy).scores()
    assert f"0 trials computed, {TRIALS} found done." in cli(*run_args(data, copy))
    pd.testing.assert_frame_equal(Store(copy).scores(), before)


def test_run_from_the_saved_config_is_the_same_run(cli, copy):
    out = cli("run", "--config", copy / "config.yaml", "--out", copy)
    assert f"0 trials computed, {TRIALS} found done." in out


def test_another_embedding_is_added_to_what_is_there(cli, data, copy):
    args = [
        a if a != f"part={data / 'partial.h5ad'}" else f"copy={data / 'full.parquet'}" for a in run_args(data, copy)
    ]
    assert f"0 trials computed, {TRIALS} found done." in cli(*args)  # same content under another name
    assert {"copy", "part", "sim-full"} <= set(Store(copy).scores()["embedding"])


def test_overwrite_never_refuses_a_folder_with_trials(cli, data, copy):
    assert "holds trials already" in cli(*run_args(data, copy), "--overwrite", "never", code=2)


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        (["--screen"], "missing --screen."),
        (["--embedding"], "missing --embedding."),
        (["--out"], "missing --out."),
        (["--screen", "--embedding", "--out"], "missing --screen, --embedding, --out."),
    ],
)
def test_missing_options_are_named_with_an_example(cli, left_out, says):
    given = {"--screen": "s.h5ad", "--embedding": "e.h5ad", "--out": "o"}
    err = cli("run", *[x for k, v in given.items() if k not in left_out for x in (k, v)], code=2)
    assert says in err and "Example: panmodal run --screen" in err


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(monkeypatch):
    """Make ``run`` hand over the config that it would run, instead of running it."""

    class Reached(Exception):
        pass

    def stop(config, **_):
        raise Reached(config)

    monkeypatch.setattr("panmodal.evaluation.api.run_config", stop)

    def parse(*args):
        monkeypatch.setattr(sys, "argv", ["panmodal", "run", *map(str, args)])
        with pytest.raises(Reached) as reached:
            main()
        return reached.value.args[0]

    return parse


@pytest.fixture
def config_file(tmp_path):
    def write(**fields):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({"screen": "s.h5ad", "embeddings": ["a.h5ad"], "out": "o", **fields}))
        return file

    return write


@pytest.mark.parametrize(
    ("field", "in_file", "flags", "expected"),
    [
        ("folds", 4, [], 4),
        ("folds", 4, ["--folds", 3], 3),
        ("seed", 7, ["--seed", 0], 0),
        ("out", "there", ["--out", "here"], "here"),
        ("probes", ["knn"], ["--probe", "ridge", "--probe", "lasso"], ("ridge", "lasso")),
        ("probes", "knn", [], ("knn",)),
        ("permuted", True, [], True),
        ("permuted", True, ["--no-permuted"], False),
        ("permuted", False, ["--permuted"], True),
        ("keep_predictions", False, [], False),
        ("keep_predictions", False, ["--keep-predictions"], True),
        ("keep_predictions", True, ["--no-keep-predictions"], False),
        ("drop_controls", True, ["--no-drop-controls"], False),
        ("allow_pickle", True, ["--no-allow-pickle"], False),
        ("n_jobs", 8, ["--jobs", 1], 1),
    ],
)
def test_flags_win_over_the_file(settings, config_file, field, in_file, flags, expected):
    assert getattr(settings("--config", config_file(**{field: in_file}), *flags), field) == expected


def test_embeddings_given_as_flags_replace_those_of_the_file(settings, config_file):
    config = settings("--config", config_file(), "--embedding", "esm=b.parquet", "--embedding", "c.h5ad#X_pca")
    assert [(e.name, e.path) for e in config.embeddings] == [("esm", "b.parquet"), (None, "c.h5ad#X_pca")]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"fold": 3}, ["config.yaml: fold: Extra inputs are not permitted", "Fields are screen, embeddings, out"]),
        ({"folds": 1}, ["folds: Input should be greater than or equal to 2 (got 1)"]),
        ({"overwrite": "maybe"}, ["overwrite", "'never', 'missing' or 'always'"]),
    ],
)
def test_wrong_fields_of_a_config_are_named(cli, config_file, fields, says):
    err = cli("run", "--config", config_file(**fields), code=2)
    assert all(part in err for part in says), err


# --- leaderboard -----------------------------------------------------------------------------------------------------


def test_leaderboard_prints_tables_sentences_and_the_note(cli, results):
    out = cli("leaderboard", results)
    store = Store(results)
    board = leaderboard(store.scores(), rows=store.perturbations(), marks=read_marks(results))
    assert "Over tasks" in out and "not ranked" in out
    assert all(sentence in " ".join(out.split()) for sentence in summary(board))


def test_leaderboard_files_hold_the_table(cli, results, tmp_path):
    html, csv, parquet = (tmp_path / f"board.{s}" for s in ("html", "csv", "parquet"))
    out = cli("leaderboard", results, "--html", html, "--csv", csv, "--parquet", parquet)
    assert all(f"Wrote {file}" in out for file in (html, csv, parquet))
    store = Store(results)
    board = leaderboard(store.scores(), rows=store.perturbations(), marks=read_marks(results))
    assert board["gap_low"].notna().any()
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), board)
    pd.testing.assert_frame_equal(pd.read_csv(csv), pd.read_csv(io.StringIO(board.to_csv(index=False))))
    page = html.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "sim-full" in page


def test_leaderboard_options_reach_the_files_too(cli, results, tmp_path):
    csv, html = tmp_path / "board.csv", tmp_path / "board.html"
    cli("leaderboard", results, "--metric", "Pearson_centred", "--fallback", "common", "--probe", "ridge",
        "--csv", csv, "--html", html)  # fmt: skip
    written = pd.read_csv(csv)
    assert set(written["metric"]) == {"Pearson_centred"} and set(written["fallback"]) == {"common"}
    assert set(written["probe"]) == {"ridge", "train mean", "no change"}
    page = html.read_text(encoding="utf-8")
    assert "Pearson_centred, higher is better" in page and "<th>filled</th>" in page and ">knn<" not in page


def test_top_shortens_the_printed_table(cli, results):
    whole, short = (cli("leaderboard", results, *top).split("Over tasks")[0] for top in ([], ["--top", 1]))
    assert whole.count(" part ") == 2 and whole.count(" sim-full ") == 2
    assert short.count(" part ") + short.count(" sim-full ") == 1 and "train mean" in short


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--fallback", "covered"], "cannot be ranked"),
        (["--metric", "R2"], "no metric 'R2'"),
        (["--probe", "lasso"], "no results for probe 'lasso'"),
        (["--csv", "board.tsv"], "board.tsv: a file written with --csv must end in .csv"),
    ],
)
def test_leaderboard_errors(cli, results, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert says in cli("leaderboard", results, *args, code=2)
    assert not list(tmp_path.iterdir())


# --- inspect, list ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("screen.h5ad", ["screen (perturbation responses), SIMULATED", "lfc", "60 ('SIM001'", "30 ('simgene1'", "context one"]),
        ("full.parquet", ["embedding, SIMULATED", "sim-full", "planted", "dimensions  64", "60 of namespace"]),
        ("partial.h5ad", ["embedding, SIMULATED", "sim-partial", "36 of namespace"]),
        ("results", ["results folder", f"{TRIALS} of {TRIALS} done", "'knn', 'ridge'", "'part'", "scores"]),
    ],
)  # fmt: skip
def test_inspect_says_what_a_file_is(cli, data, results, file, says):
    out = cli("inspect", data / file)
    assert all(part in out for part in says), out


def test_inspect_tells_how_an_embedding_covers_a_screen(cli, data):
    out = cli("inspect", data / "partial.h5ad", data / "full.parquet", "--screen", data / "screen.h5ad")
    assert "36 of 60 ids (60.0 %); missing 'SIM" in out and "60 of 60 ids (100.0 %)" in out


@pytest.mark.parametrize(
    ("name", "says"),
    [("simulated-perturbseq", "SIMULATED"), ("depmap-fitness", "3465"), ("gene-name-minilm", "of namespace")],
)
def test_inspect_knows_what_is_shipped(cli, name, says):
    assert says in cli("inspect", name)


def test_inspect_notes_equal_vectors_and_constant_dimensions(cli, tmp_path):
    np.savez(tmp_path / "e.npz", ids=np.array(["A", "B", "C"]), vectors=[[1.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    out = cli("inspect", tmp_path / "e.npz")
    assert "1 id(s) have the same vector as another" in out and "1 dimension(s) are constant" in out


def test_inspect_shows_every_embedding_in_obsm(cli, data, tmp_path):
    import anndata

    adata = anndata.AnnData(np.eye(4, dtype=np.float32), obsm={"X_a": np.ones((4, 2)), "X_b": np.eye(4)[:, :3]})
    adata.obs_names = list("ABCD")
    adata.write_h5ad(tmp_path / "many.h5ad")
    out = cli("inspect", tmp_path / "many.h5ad")
    assert "many#X_a" in out and "many#X_b" in out and "dimensions  3" in out


def test_inspect_of_neither_gives_both_reasons(cli, tmp_path):
    (tmp_path / "odd.csv").write_text("colour,shape\nred,round\n")
    err = cli("inspect", tmp_path / "odd.csv", code=2)
    assert "as a screen:" in err and "as an embedding:" in err and "odd.csv" in err


def test_inspect_of_some_other_folder(cli, tmp_path):
    assert "neither a results folder (it has no panmodal.json) nor a .zarr" in cli("inspect", tmp_path, code=2)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("probes", list(probes())),
        ("metrics", list(METRICS)),
        ("screens", ["depmap-fitness", "simulated-perturbseq"]),
        ("embeddings", ["string-netmf", "go-svd"]),
    ],
)
def test_list(cli, what, names):
    alone, everything = cli("list", what), cli("list")
    assert all(f" {name} " in alone and f" {name} " in everything for name in names)
    assert [t for t in ("probes", "metrics", "screens", "embeddings") if t in alone.split("\n")[0]] == [what]


def test_list_of_something_else(cli):
    assert "nothing to list of 'gpus'; give one of probes, fusions, metrics" in cli("list", "gpus", code=2)


# --- rescore, split --------------------------------------------------------------------------------------------------


def test_rescore_gives_the_same_scores_without_fitting(cli, copy):
    before = Store(copy).scores()
    shutil.rmtree(copy / "scores")
    (copy / "scores.parquet").unlink()
    assert f"{TRIALS} trials, {len(before)} scores" in cli("rescore", copy)
    pd.testing.assert_frame_equal(Store(copy).scores(), before, rtol=1e-10)


def test_rescore_some_metrics(cli, copy):
    before = Store(copy).scores()
    cli("rescore", copy, "--metric", "MAE", "--metric", "L2")
    after = Store(copy).scores()
    assert set(after["metric"]) == {"L2", "MAE"}
    kept = before[before["metric"].isin(["L2", "MAE"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(after, kept, rtol=1e-10)


def test_rescore_errors(cli, data, results, tmp_path):
    assert "no metric 'R2'" in cli("rescore", results, "--metric", "R2", code=2)
    assert "not a results folder" in cli("rescore", data, code=2)
    cli(*run_args(data, tmp_path / "r"), "--no-keep-predictions")
    assert "run without keeping predictions" in cli("rescore", tmp_path / "r", code=2)


def test_split_then_run_with_these_folds(cli, data, tmp_path):
    file = tmp_path / "folds.csv"
    out = cli("split", "--screen", data / "screen.h5ad", "--out", file, "--folds", 4, "--seed", 3)
    made = read_split(file)
    assert "60 perturbations in folds of [15, 15, 15, 15]" in out and made.digest in out and made.seed == 3
    cli("run", "--screen", data / "screen.h5ad", "--embedding", data / "full.parquet", "--out", tmp_path / "r",
        "--splits", file, "--probe", "ridge", "--jobs", 1)  # fmt: skip
    store = Store(tmp_path / "r")
    trials = {t.digest: t for t in store.trials()}
    assert {t.depends["split"] for t in trials.values()} == {made.digest}
    rows = store.perturbations()
    assert (rows["pert_id"].map(made.folds) == rows["trial"].map(lambda t: trials[t].fold)).all()


def test_split_by_groups_keeps_them_together(cli, data, tmp_path):
    ids = [f"SIM{k + 1:03d}" for k in range(60)]
    pd.DataFrame({"pert_id": ids, "group": [k // 6 for k in range(60)]}).to_csv(tmp_path / "groups.csv", index=False)
    cli("split", "--screen", data / "screen.h5ad", "--out", tmp_path / "f.csv", "--groups", tmp_path / "groups.csv")
    folds = read_split(tmp_path / "f.csv").folds
    assert all(len({folds[i] for i in ids[k : k + 6]}) == 1 for k in range(0, 60, 6))


# --- the shell -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(cli, command):
    out = cli(command, "--help")
    assert "Example" in out and f"panmodal {command}" in out


def test_help_lists_every_command(cli):
    out = cli("--help")
    assert all(f" {command} " in out for command in COMMANDS)


def test_version(cli):
    assert cli("--version") == f"panmodal {__version__}\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["run", "--screen", "no.h5ad", "--embedding", "e.csv", "--out", "o"], "error: no.h5ad: no such file."),
        (["leaderboard", "."], "error: .: not a results folder"),
        (["run", "--folds", "two"], "Invalid value for '--folds'"),
    ],
)
def test_errors_are_one_message_and_exit_2(tmp_path, args, says):
    failed = python_m(*args, cwd=tmp_path)
    assert failed.returncode == 2 and says in failed.stderr and "Traceback" not in failed.stderr
    assert failed.stdout == "" and not list(tmp_path.iterdir())


def test_markup_in_a_file_name_is_printed_as_it_is(cli):
    assert "error: [bold]x[/].h5ad: no such file." in cli("inspect", "[bold]x[/].h5ad", code=2)


def test_an_interrupt_says_how_to_go_on(cli, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(panmodal.cli, "app", interrupt)
    assert "run the same command again to go on" in cli("run", code=130)


def test_a_defect_is_not_dressed_up_as_a_mistake_of_the_user(monkeypatch):
    def fail(**_):
        raise ZeroDivisionError

    monkeypatch.setattr(panmodal.cli, "app", fail)
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe that closes early")
def test_output_into_a_closed_pipe_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "panmodal", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()
    process.stderr.close()
