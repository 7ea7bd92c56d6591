"""The command line of plans: plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panmodal._console import console_for, plain
from panmodal.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from panmodal.evaluation.cost import CostModel
    from panmodal.evaluation.estimate import Estimate
    from panmodal.evaluation.lite_plan import Lite
    from panmodal.evaluation.schedule import Simulation

SHOWN = 5
"""Plain designs that are shown beside the chosen one."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(plan)


def plan(
    screen: Annotated[str | None, typer.Option(help="Screen, as for panmodal run.")] = None,
    embedding: Annotated[list[str] | None, typer.Option(help="Embedding, as for panmodal run. Repeat.")] = None,
    fusion: Annotated[list[str] | None, typer.Option(help="Fusion, as for panmodal run. Repeat.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of panmodal run; flags win over it.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write one row per trial (.csv, .json or .parquet); panmodal run --plan takes it."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Results folder: what is done in it is not counted. That of the config unless given."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", "--workers", help="Workers to plan for; all cores unless given.")
    ] = None,
    lite: Annotated[
        str | None,
        typer.Option(
            help="Choose the part that best preserves the ranking: a share of the work (0.2, 20%) or a time on the workers (3h, 90m)."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="For --lite: results folder or table of scores of other embeddings to learn from."),
    ] = None,
    timings: Annotated[
        list[Path] | None, typer.Option(help="Results folder whose recorded times the estimate is fitted to. Repeat.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine again (some ten seconds).")
    ] = False,
    no_calibration: Annotated[
        bool, typer.Option("--no-calibration", help="Use built-in prices and measure nothing.")
    ] = False,
    id_col: Annotated[
        str | None, typer.Option(help="Column of the ids in embedding files. Detected unless given.")
    ] = None,
    response: Annotated[str | None, typer.Option(help="Kind of response. Needed unless the file says.")] = None,
    contexts: Annotated[list[str] | None, typer.Option(help="Only these contexts (repeat).")] = None,
    match: Annotated[str | None, typer.Option(help="How ids of embeddings are matched, as for panmodal run.")] = None,
    splits: Annotated[str | None, typer.Option(help="Given folds, as for panmodal run.")] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds, 5 unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of folds and controls, 42 unless given.")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only these probes (repeat).")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only these metrics (repeat).")] = None,
    permuted: Annotated[bool | None, typer.Option(help="Also run a row-permuted copy of each embedding.")] = None,
    keep_predictions: Annotated[bool | None, typer.Option(help="Store predictions (default).")] = None,
    allow_pickle: Annotated[bool | None, typer.Option(help="Open .pt and .pkl files, which can run code.")] = None,
) -> None:
    """Tell what a run would do, and what it would cost, before it starts.

    Example: `panmodal plan --screen screen.h5ad --embedding string.h5ad --jobs 16 --lite 20% --out plan.csv`
    """
    from panmodal.evaluation.config import make_config, read_config
    from panmodal.evaluation.estimate import estimate_plan, write_plan
    from panmodal.evaluation.schedule import Cluster, simulate

    fields: dict[str, Any] = read_config(config) if config else {}
    given = {
        "screen": screen, "embeddings": embedding, "fusions": fusion, "id_col": id_col, "response": response, "contexts": contexts,
        "match": match, "splits": splits, "folds": folds, "seed": seed, "probes": probe, "metrics": metric, "permuted": permuted,
        "keep_predictions": keep_predictions, "allow_pickle": allow_pickle, "n_jobs": jobs, "out": str(results) if results else None,
    }  # fmt: skip
    fields |= {k: v for k, v in given.items() if v is not None and v != []}
    fields.setdefault("out", "results")  # a plan needs none; the config of a run does
    needed = [f"--{key.removesuffix('s')}" for key in ("screen", "embeddings") if key not in fields]
    if needed:
        raise InputError(f"missing {', '.join(needed)}. Example: panmodal plan --screen S.h5ad --embedding A.h5ad")
    if like is not None and lite is None:
        raise InputError("--like says what --lite learns from; give --lite as well (--lite 0.2).")
    if out is not None and out.suffix not in (".csv", ".json", ".parquet"):
        raise InputError(f"{out}: a plan is written as .csv, .json or .parquet.")
    settings = make_config(fields, str(config) if config else "options")
    workers = settings.n_jobs or os.cpu_count() or 1
    console = console_for()
    model = _model(console, timings or [], calibrate, no_calibration)
    made = _make_plan(settings)
    done = _done(made, Path(settings.out), required=results is not None)
    estimate = estimate_plan(
        made, model, metrics=settings.metrics, keep_predictions=settings.keep_predictions, done=done
    )
    cluster = Cluster(
        workers,
        dispatch=0.002,
        start=model.start if workers > 1 else 0.0,
        before=estimate.before,
        after=estimate.after,
        per_machine=workers,
    )
    run = simulate(estimate.jobs, cluster) if estimate.jobs else None
    _show(console, made, estimate, run)
    table = estimate.trials
    if lite is not None:
        if run is None:
            raise InputError("everything is done already; there is nothing to choose a part of.")
        chosen = _lite(console, estimate, lite, like, workers * run.utilisation, settings.metrics)
        table = table.assign(lite=table["trial"].isin(chosen.wanted))
    if out is not None:
        write_plan(table, out)
        console.print(f"Wrote {out}: {len(table)} trials", highlight=False, soft_wrap=True)


def _model(console: Console, timings: list[Path], renew: bool, built_in: bool) -> CostModel:
    from panmodal.evaluation.estimate import BUILT_IN
    from panmodal.evaluation.estimate_calibrate import calibrated, calibration_path, with_timings

    if renew and built_in:
        raise InputError("--calibrate and --no-calibration exclude each other.")
    if not built_in and (renew or not calibration_path().exists()):
        console.print("Measuring this machine; the result is kept for later plans.", highlight=False)
    model = BUILT_IN if built_in else calibrated(renew=renew)
    return with_timings(model, [str(t) for t in timings]) if timings else model


def _make_plan(settings: Any) -> Any:
    from panmodal.evaluation.plan import make_plan

    read = settings.load_screen()
    more: dict[str, Any] = {"fusions": settings.fusions} if getattr(settings, "fusions", ()) else {}
    return make_plan(read, settings.load_embeddings(), settings.load_split(read), probe_names=settings.probes, seed=settings.seed,
                     permuted=settings.permuted, match=settings.match, **more)  # fmt: skip


def _done(made: Any, folder: Path, *, required: bool) -> set[str]:
    """Digests of the plan's trials that a results folder holds."""
    from panmodal.evaluation.store import MANIFEST, Store

    if not required and not (folder / MANIFEST).exists():
        return set()
    store = Store(folder)
    return {d for d in {t.digest for t in made.trials} if store.has_trial(d)}


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def size(amount: float) -> str:
    """Bytes in MB or GB."""
    return f"{amount / 1e6:.3g} MB" if amount < 1e9 else f"{amount / 1e9:.3g} GB"


def _show(console: Console, made: Any, estimate: Estimate, run: Simulation | None) -> None:
    from rich.table import Table

    console.print(plain(repr(made.screen)), highlight=False)
    trials = estimate.trials
    todo = trials[~trials["done"]]
    table = Table(title="Trials", title_justify="left", title_style="bold")
    for column in ("role", "probe", "trials", "done", "to do", "time of all", "slowest"):
        table.add_column(column, justify="left" if column in ("role", "probe") else "right")
    for (role, probe), rows in trials.groupby(["role", "probe"], sort=False):
        left = rows[~rows["done"]]
        spent = left["seconds"] + left["shared_seconds"]
        table.add_row(role, plain(probe), str(len(rows)), str(int(rows["done"].sum())), str(len(left)),
                      duration(float(spent.sum())), duration(float(spent.max())) if len(left) else "")  # fmt: skip
    console.print(table)
    say: list[str] = []
    repeated = len(made.trials) - len(trials)
    if repeated:
        say.append(f"{repeated} trial(s) have the content of another and are computed once with it.")
    if run is None:
        say.append("Nothing is left to do.")
    else:
        low, high = float(todo["low_seconds"].sum()), float(todo["high_seconds"].sum())
        middle = max(1e-9, float((todo["seconds"] + todo["shared_seconds"]).sum()))
        share = float(todo["shared_seconds"].sum()) / middle
        say += [
            f"{len(todo)} trials in {len(estimate.jobs)} groups (embedding, fold): {estimate.seconds / 3600:.3g} core-hours "
            f"({low / 3600:.3g} to {high / 3600:.3g}).",
            f"On {run.workers} worker(s): {duration(run.makespan)} ({duration(run.makespan * low / middle)} to "
            f"{duration(run.makespan * high / middle)}), efficiency {100 * run.efficiency:.0f} %; bound by: {run.bound}"
            + (f" ({run.longest})" if run.bound == "longest job" else "") + f"; most of the lost time: {run.waste}.",
            f"Shared work (projections, laying out) is {100 * share:.0f} % of the trials' time; every trial by itself would take "
            f"{estimate.unshared / max(estimate.seconds, 1e-9):.2g} times as long.",
            f"Memory: {size(estimate.memory)} for each worker beside {size(estimate.mapped)} of inputs that all share, "
            f"{size(estimate.mapped + run.workers * estimate.memory)} in all. Disk: {size(estimate.disk)} of results, "
            f"{size(estimate.scratch)} of temporary files.",
        ]  # fmt: skip
    say.append(
        f"Times from {estimate.model.source}; nine of ten lie within {estimate.model.low:.2g} to {estimate.model.high:.2g} times "
        "the estimate."
    )
    for line in (*say, *estimate.notes):
        console.print(f"· {plain(line)}", highlight=False, soft_wrap=True)


def _lite(console: Console, estimate: Estimate, text: str, like: Path | None, workers: float, metrics: Any) -> Lite:
    from rich.table import Table

    from panmodal.evaluation.lite import parse_budget
    from panmodal.evaluation.lite_plan import make_lite, plan_units, read_like

    _, costs = plan_units(estimate.trials)
    budget = parse_budget(text, costs.total, workers)
    scores = None if like is None else read_like(like, metric=metrics[0] if metrics else None)
    chosen = make_lite(estimate, min(budget, costs.total), like=scores)
    u = chosen.units
    say = [
        f"Lite: {len(chosen.wanted)} of {len(estimate.trials)} trials, {duration(chosen.seconds)} of {duration(costs.total)} of work "
        f"({100 * chosen.seconds / costs.total:.0f} %): {u['context'].nunique()} context(s), {u['fold'].nunique()} fold(s), "
        f"{', '.join(dict.fromkeys(u['probe']))}.",
        f"Expected agreement with the ranking of the whole plan: Kendall's tau {chosen.tau:.2f} ({', '.join(chosen.notes)}).",
    ]  # fmt: skip
    if chosen.held_out is not None:
        by = chosen.held_out.set_index("by")
        say += [f"Measured on held-out embeddings of {like}: tau {by.at[b, 'tau']:.2f} (sd {by.at[b, 'sd']:.2f}) chosen "
                f"{'by the scores of the others' if b == 'like' else 'from the structure' if b == 'structure' else 'at random'}."
                for b in by.index]  # fmt: skip
    for line in say:
        console.print(f"· {plain(line)}", highlight=False, soft_wrap=True)
    shown = [("chosen", chosen.seconds, chosen.tau), *chosen.rivals.head(SHOWN).itertuples(index=False)]
    table = Table(title="Parts within the budget", title_justify="left", title_style="bold")
    for column in ("part", "work", "expected tau"):
        table.add_column(column)
    for name, seconds, tau in shown:
        table.add_row(plain(str(name)), duration(float(seconds)), f"{tau:.3f}")
    console.print(table)
    curve = "; ".join(f"{100 * s:.0f} %: {t:.2f} ({r:.2f})" for s, t, r in chosen.table.itertuples(index=False))
    console.print(
        f"· Expected tau by share of the work, in brackets that of random parts: {curve}.",
        highlight=False,
        soft_wrap=True,
    )
    return chosen
