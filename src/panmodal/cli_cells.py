"""The command line for raw cells: prepare, ceiling, simulate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panmodal._console import console_for, plain, trial_progress
from panmodal.errors import InputError, some

if TYPE_CHECKING:
    from rich.console import Console

    from panmodal.cells.prepare import PrepareOptions
    from panmodal.screens.screen import Screen

Memory = Annotated[float, typer.Option(help="Bound on memory in GiB.", min=0.1)]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", help="Threads; all cores unless given.", min=1)]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(prepare)
    app.command()(ceiling)
    app.command()(simulate)


def show_facts(console: Console, title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print (what, value) pairs under a title."""
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for what, value in facts:
        table.add_row(plain(what), plain(value))
    console.print(table)


def prepare(
    cells: Annotated[
        list[str],
        typer.Argument(
            help="Raw counts: h5ad, zarr, 10x h5, or folder with a 10x mtx. Several (NAME=FILE): one per context or batch, or --each."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Screen to write (.h5ad or .zarr); with --each, a folder for them.")],
    each: Annotated[bool, typer.Option("--each", help="Make a screen of each file, several at once.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the screen; the stem of --out unless given.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Study that the cells are from, such as replogle2022 (repeat).")
    ] = None,
    pert_col: Annotated[str | None, typer.Option(help="Column of the perturbation. Detected unless given.")] = None,
    control: Annotated[
        list[str] | None, typer.Option(help="Label of control cells (repeat). Detected unless given.")
    ] = None,
    batch_col: Annotated[
        str | None,
        typer.Option(help="Column of the batch or plate; 'none': one batch; 'file': the files. Detected unless given."),
    ] = None,
    context_col: Annotated[
        list[str] | None, typer.Option(help="Column of the context (repeat to join several). Detected unless given.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Name of the one context of cells without such a column.")] = None,
    contexts: Annotated[list[str] | None, typer.Option(help="Only these contexts (repeat).")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Only cells with COLUMN=VALUE (repeat).")] = None,
    rule: Annotated[
        str, typer.Option(help="Controls: pooled, matched (within each batch), or auto (matched for plates).")
    ] = "auto",
    deg: Annotated[
        str, typer.Option(help="DEG labels: pooled, vote (of batches), none, or auto (vote with matched).")
    ] = "auto",
    min_cells: Annotated[int, typer.Option(help="Fewest cells of a perturbation in a context.", min=1)] = 10,
    max_remaining: Annotated[
        float | None,
        typer.Option(help="Leave out perturbations whose target gene keeps a larger share of its expression."),
    ] = None,
    genes: Annotated[
        Path | None, typer.Option(help="Keep only the genes of this file (one per line). Totals are over all.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the counts; 'raw' for raw.X. X unless given.")] = None,
    gene_col: Annotated[
        str | None, typer.Option(help="Column of var that names genes; the index unless given.")
    ] = None,
    obs: Annotated[Path | None, typer.Option(help="Table of the cells' annotation (first column: cell names).")] = None,
    already_normalised: Annotated[
        bool, typer.Option(help="Values are log1p of counts scaled to 1e4 per cell.")
    ] = False,
    drop_unassigned: Annotated[
        bool, typer.Option(help="Leave out cells without perturbation, batch or context.")
    ] = False,
    drop_unmatched: Annotated[
        bool, typer.Option(help="Matched rule: leave out cells of batches without controls.")
    ] = False,
    memory: Memory = 4.0,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Threads; with --each, files at once. All cores unless given.", min=1),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="With --each: a Dask cluster's address, its scheduler file (.json), or local.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Show columns, controls and counts, and stop.")] = False,
) -> None:
    """Turn raw counts of cells into a screen: log fold changes and DEG labels.

    Examples: `panmodal prepare cells.h5ad --out screen.h5ad`; `panmodal prepare lines/*.h5ad --each --out screens/ --jobs 8`
    """
    from panmodal.cells.prepare import PrepareOptions, open_cells
    from panmodal.cells.prepare import prepare as make

    if dask and not each:
        raise InputError("--dask gives whole files to workers; it needs --each (a screen of each file).")
    if each and name:
        raise InputError("--name is for one screen; with --each a screen is named after its file, or by NAME=FILE.")
    if not each and out.suffix not in (".h5ad", ".zarr"):
        raise InputError(
            f"{out}: a screen is written as .h5ad or .zarr; --each writes one for each file into a folder."
        )
    if not each and out.suffix == ".zarr" and out.exists():
        raise InputError(f"{out}: exists already; remove it or choose another name.")
    options = PrepareOptions(
        pert_col=pert_col, control=tuple(control or ()), batch_col=batch_col, context_col=tuple(context_col or ()), context=context,
        contexts=tuple(contexts or ()), keep=tuple(keep or ()), rule=rule, deg=deg, min_cells=min_cells, max_remaining=max_remaining,
        layer=layer, gene_col=gene_col, table=str(obs) if obs else None, genes=_gene_list(genes),
        already_normalised=already_normalised, drop_unassigned=drop_unassigned, drop_unmatched=drop_unmatched,
    )  # fmt: skip
    console = console_for()
    if each:
        _prepare_each(
            console, cells, options, out, datasets=dataset or (), memory=memory, jobs=jobs, dask=dask, dry_run=dry_run
        )
        return
    opened = open_cells(cells, options)
    if any(p.resolve() == out.resolve() for p in opened.stream.paths):
        raise InputError(f"{out}: is the file of cells itself; give the screen another name.")
    show_facts(console, ", ".join(cells), opened.facts())
    if dry_run:
        return
    with trial_progress("cells") as report:
        screen = make(opened, name=name or out.stem, datasets=dataset or (), memory=memory, n_jobs=jobs, progress=report,
                      say=lambda line: console.print(f"  [dim]· {plain(line)}[/]", highlight=False))  # fmt: skip
    screen.write(out)
    console.print(plain(repr(screen)), highlight=False)
    console.print(f"Wrote {plain(str(out))}. Next: panmodal ceiling {plain(str(out))}", highlight=False, soft_wrap=True)


def _prepare_each(
    console: Console, cells: Sequence[str], options: PrepareOptions, out: Path, *, dry_run: bool, **given: Any
) -> None:
    """Prepare files one by one, several at once; exit with 1 if one failed, after all were tried."""
    from panmodal.cells.many import prepare_each
    from panmodal.execution.many import failures

    with trial_progress("files") as report:
        facts, faults = prepare_each(
            cells, options, out, dry_run=dry_run, progress=report,
            say=lambda line: console.print(f"  [dim]· {plain(line)}[/]", highlight=False), **given,
        )  # fmt: skip
    for path, text in facts.items():
        first, *lines = text.splitlines()
        console.print(f"[bold]{plain(str(path))}[/]: {plain(first)}", highlight=False, soft_wrap=True)
        for line in lines:
            console.print(f"  [dim]· {plain(line)}[/]", highlight=False, soft_wrap=True)
    if facts and not dry_run:
        made = f"{len(facts)} of {len(facts) + len(faults)} screens are in {plain(str(out))}"
        console.print(f"{made}. Next: panmodal ceiling {plain(str(out))}/NAME.h5ad", highlight=False, soft_wrap=True)
    if faults:
        text = failures(faults, len(facts) + len(faults))
        console_for(stderr=True).print(f"[bold red]error:[/] {plain(text)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _gene_list(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        genes = tuple(
            line.split("\t")[0].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of genes ({error}).") from error
    if not genes:
        raise InputError(f"{path}: no gene in it; write one per line.")
    return genes


def ceiling(
    screen: Annotated[Path, typer.Argument(help="Screen made by panmodal prepare.")],
    cells: Annotated[
        list[str] | None, typer.Option(help="The cells it was made from (repeat), if they were moved since.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; SCREEN.ceilings.h5 beside the screen unless given.")
    ] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help="Only these estimators (repeat); see panmodal list ceilings.")
    ] = None,
    outer: Annotated[int, typer.Option(help="Bootstrap: resamplings of batches.", min=1)] = 10,
    inner: Annotated[
        int | None, typer.Option(help="Bootstrap: resamplings of cells for each; 10, or 20 if matched.", min=1)
    ] = None,
    halves: Annotated[
        int, typer.Option(help="Random splits of the cells, and at most as many of the batches.", min=1)
    ] = 10,
    label_draws: Annotated[int, typer.Option(help="Resamplings for DEG labels.", min=0)] = 20,
    null_draws: Annotated[
        int, typer.Option(help="Draws of control cells that response norms are compared with.", min=0)
    ] = 200,
    separate_controls: Annotated[
        bool,
        typer.Option(
            help="experimental_error: other control cells for the draws than for the truth (shared ones correlate)."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed.", min=0)] = 42,
    memory: Memory = 4.0,
    jobs: Jobs = None,
) -> None:
    """Estimate what the experiment's own noise allows, and how strong and repeatable each response is.

    Example: `panmodal ceiling screen.h5ad`
    """
    from panmodal.cells.ceiling import CeilingOptions, make_ceilings
    from panmodal.screens.ceilings import Ceilings, ceilings_path
    from panmodal.screens.reading import read_screen

    read = read_screen(screen)
    opened = _same_cells(read, screen, cells)
    console = console_for()
    show_facts(console, str(screen), opened.facts())
    target = out or ceilings_path(screen)
    options = CeilingOptions(
        estimators=tuple(estimator or ()), outer=outer, inner=inner, halves=halves, label_draws=label_draws, null_draws=null_draws,
        separate_controls=separate_controls, seed=seed,
    )  # fmt: skip
    with trial_progress("perturbations") as report:
        make_ceilings(opened, read, target, options, memory=memory, n_jobs=jobs, progress=report)
    made = Ceilings(target)
    for name in made.contexts:
        console.print(quality_table(made.quality(name), name))
        for each in made.estimators(name):
            console.print(f"  [dim]· {plain(each.name)}: {plain(each.description)}[/]", highlight=False, soft_wrap=True)
    size = target.stat().st_size / 2**20
    console.print(f"Wrote {plain(str(target))} ({size:.1f} MiB). Next: panmodal run --screen {plain(str(screen))} --embedding ...",
                  highlight=False, soft_wrap=True)  # fmt: skip


def quality_table(quality: Any, context: str) -> Any:
    """Lay out how strong and repeatable the responses of a context are."""
    from rich.table import Table

    strong = (quality["norm_p"] <= 0.05).sum()
    tested = quality["norm_p"].notna().sum()
    table = Table(title=f"{plain(context)}: {strong} of {tested} responses are longer than those of as many control cells (p <= 0.05)",
                  title_justify="left", title_style="bold", header_style="bold")  # fmt: skip
    columns = ("n_cells", "n_batches", "response_norm", "null_norm", "n_deg", "reliability")
    table.add_column("quartile")
    for column in columns:
        table.add_column(column, justify="right")
    for label, share in (("lowest", 0.0), ("25 %", 0.25), ("median", 0.5), ("75 %", 0.75), ("highest", 1.0)):
        shown = [(c, quality[c].quantile(share)) for c in columns]
        table.add_row(label, *("–" if v != v else f"{v:.0f}" if c.startswith("n_") else f"{v:.3f}" for c, v in shown))
    return table


def _same_cells(screen: Screen, path: Path, given: list[str] | None) -> Any:
    """Open the cells that a screen was made from, in the way it was made; refuse others."""
    from panmodal.cells.prepare import PrepareOptions, open_cells
    from panmodal.cells.stream import file_digest, named_path

    record = screen.provenance
    if not record:
        raise InputError(
            f"{path}: does not say which cells it was made from; ceilings need a screen made by panmodal prepare."
        )
    inputs = record["inputs"]
    if given and len(given) != len(inputs):
        raise InputError(
            f"{path}: was made from {len(inputs)} file(s) of cells ({some(i['name'] for i in inputs)}), {len(given)} given."
        )
    paths = [named_path(g)[1] for g in given] if given else [Path(i["path"]) for i in inputs]
    for found, one in zip(paths, inputs, strict=True):
        if not found.exists():
            raise InputError(
                f"{found}: the cells that {path} was made from are not there. Say where they are with --cells."
            )
        if one["sha256"] and file_digest(found) != one["sha256"]:
            raise InputError(
                f"{found}: is not the file that {path} was made from (its SHA-256 is not {one['sha256'][:12]}...)."
            )
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["options"].items()}
    columns = record["columns"]
    # What was detected then is asked for now.
    fields |= {"pert_col": columns["perturbation"], "control": tuple(columns["controls"]), "batch_col": columns["batch"] or "none",
               "context_col": tuple(columns["context"]), "rule": record["rule"], "deg": record["deg"]}  # fmt: skip
    return open_cells([(i["name"], p) for i, p in zip(inputs, paths, strict=True)], PrepareOptions(**fields))


def simulate(
    out: Annotated[
        Path, typer.Argument(help="File of cells to write (.h5ad); planted embeddings go into a folder beside it.")
    ],
    kind: Annotated[str, typer.Option(help="perturb-seq or plates.")] = "perturb-seq",
    cells: Annotated[int, typer.Option(help="Number of cells.", min=1)] = 20_000,
    perturbations: Annotated[int, typer.Option(help="Number of perturbations.", min=1)] = 60,
    genes: Annotated[int, typer.Option(help="Number of genes.", min=1)] = 500,
    context: Annotated[list[str] | None, typer.Option(help="Name of a context (repeat).")] = None,
    batches: Annotated[int, typer.Option(help="Number of batches or plates.", min=1)] = 4,
    control_share: Annotated[float, typer.Option(help="Share of control cells.")] = 0.1,
    umis: Annotated[float, typer.Option(help="Mean UMIs of a cell.")] = 1500.0,
    dispersion: Annotated[
        float, typer.Option(help="Of the negative binomial: variance = mean (1 + dispersion mean).")
    ] = 0.5,
    effect: Annotated[float, typer.Option(help="Size of all effects; 0 for none.")] = 1.0,
    responders: Annotated[float, typer.Option(help="Share of perturbations with an effect.")] = 0.67,
    efficiency: Annotated[float, typer.Option(help="Share of perturbed cells that respond (perturb-seq).")] = 0.85,
    dropout: Annotated[float, typer.Option(help="Share of the counts above zero that are lost.")] = 0.0,
    batch_effect: Annotated[float, typer.Option(help="Spread (log) of batch effects.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of effects and genes.", min=0)] = 0,
    cells_seed: Annotated[
        int | None, typer.Option(help="Seed of the cells; --seed unless given. Another one is a replicate.")
    ] = None,
) -> None:
    """Simulate raw counts with a known truth, and embeddings of known worth. Everything is marked simulated.

    Example: `panmodal simulate sim/cells.h5ad --cells 20000 --perturbations 100 --genes 1000`
    """
    from panmodal.cells.simulate import simulate_cells, write_embeddings

    with trial_progress("cells") as report:
        truth = simulate_cells(
            out, kind=kind, n_cells=cells, n_perturbations=perturbations, n_genes=genes, contexts=tuple(context or ("sim-line-A",)),
            n_batches=batches, control_share=control_share, umis=umis, dispersion=dispersion, effect=effect, responders=responders,
            efficiency=efficiency, dropout=dropout, batch_effect=batch_effect, seed=seed, cells_seed=cells_seed, progress=report,
        )  # fmt: skip
    folder = out.with_name(f"{out.stem}-embeddings")
    written = write_embeddings(truth, folder)
    settings = json.dumps(truth.parameters) if isinstance(truth.parameters, dict) else str(truth.parameters)
    console = console_for()
    console.print(f"Wrote {plain(str(out))} (SIMULATED): {plain(settings)}", highlight=False, soft_wrap=True)
    console.print(f"Wrote {len(written)} planted embeddings to {plain(str(folder))}. Next: panmodal prepare {plain(str(out))} "
                  "--out screen.h5ad", highlight=False, soft_wrap=True)  # fmt: skip
