"""The command line of learning curves: curve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from panmodal._console import console_for, plain, trial_progress
from panmodal.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(curve)


def curve(
    screen: Annotated[str, typer.Option(help="Screen: a file, or the name of a shipped one or a fetched data set.")],
    embedding: Annotated[list[str], typer.Option(help="Embedding: FILE, NAME=FILE, FILE.h5ad#KEY or a name. Repeat.")],
    out: Annotated[Path, typer.Option(help="Table to write (.csv or .parquet): one row per point, fold and metric.")],
    fractions: Annotated[
        str, typer.Option(help="Shares of the training perturbations, with commas or spaces between; 'none' for none.")
    ] = "0.1,0.25,0.5,1",
    dims: Annotated[
        str, typer.Option(help="Numbers of dimensions, with commas or spaces between; 'none' for none.")
    ] = "8,16,32,64,128",
    figure: Annotated[Path | None, typer.Option(help="Also draw the curves (.svg, .png or .pdf).")] = None,
    id_col: Annotated[
        str | None, typer.Option(help="Column of the ids in embedding files. Detected unless given.")
    ] = None,
    response: Annotated[str | None, typer.Option(help="Kind of response. Needed unless the file says.")] = None,
    contexts: Annotated[list[str] | None, typer.Option(help="Only these contexts (repeat).")] = None,
    match: Annotated[
        str, typer.Option(help="How ids of embeddings are matched: auto, genes, compounds, exact.")
    ] = "auto",
    splits: Annotated[str | None, typer.Option(help="Given folds: csv with pert_id and fold, or 'published'.")] = None,
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of folds, subsets and controls.")] = 42,
    probe: Annotated[list[str] | None, typer.Option(help="Only these probes (repeat).")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only these metrics (repeat); the first is shown.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Processes; all cores unless given.")] = None,
    allow_pickle: Annotated[bool, typer.Option(help="Open .pt and .pkl files, which can run code.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or a torch device, for the logistic probe.")] = "cpu",
) -> None:
    """Tell whether more perturbations, or more dimensions, would help.

    Refits every probe with part of the training perturbations, and with the first principal components only.

    Example: `panmodal curve --screen screen.h5ad --embedding string.h5ad --fractions 0.1,0.25,0.5,1 --out curves.csv`
    """
    from panmodal.evaluation.config import make_config
    from panmodal.evaluation.curves import learning_curves
    from panmodal.insight.curves import curve_display

    _suffix(out, (".csv", ".parquet"), "a table of learning curves")
    if figure is not None:
        _suffix(figure, (".svg", ".png", ".pdf"), "a figure")
    shares, sizes = _numbers(fractions, "--fractions", float), _numbers(dims, "--dims", int)
    fields: dict[str, Any] = {
        "screen": screen, "embeddings": embedding, "out": str(out), "id_col": id_col, "response": response,
        "contexts": contexts or None, "match": match, "splits": splits, "folds": folds, "seed": seed, "probes": probe or None,
        "metrics": metric or None, "n_jobs": jobs, "allow_pickle": allow_pickle, "device": device,
    }  # fmt: skip
    settings = make_config({k: v for k, v in fields.items() if v is not None}, "options")
    read = settings.load_screen()
    console = console_for()
    console.print(plain(repr(read)), highlight=False)
    with trial_progress("fits") as report:
        table = learning_curves(
            read, settings.load_embeddings(), fractions=shares, dims=sizes, split=settings.load_split(read), seed=settings.seed,
            probes=settings.probes, metrics=settings.metrics, match=settings.match, n_jobs=settings.n_jobs, progress=report,
            device=device,
        )  # fmt: skip
    _write(table, out)
    display = curve_display(table, metric=metric[0] if metric else None)
    for sentence in display.sentences:
        console.print(f"· {plain(sentence)}", highlight=False, soft_wrap=True)
    console.print(f"Wrote {out}", highlight=False, soft_wrap=True)
    if figure is not None:
        from panmodal._files import atomic_path

        with atomic_path(figure) as partial:
            display.plot().savefig(partial, dpi=150)
        console.print(f"Wrote {figure}", highlight=False, soft_wrap=True)


def _suffix(path: Path, known: tuple[str, ...], what: str) -> None:
    if path.suffix not in known:
        raise InputError(f"{path}: {what} is written as {' or '.join(known)}.")


def _numbers(text: str, flag: str, kind: type) -> list[Any]:
    """Read numbers with commas or spaces between them."""
    parts = text.replace(",", " ").split()
    if [p.lower() for p in parts] == ["none"]:
        return []
    try:
        numbers = [kind(p) for p in parts]
    except ValueError:
        numbers = []
    if not numbers:
        raise InputError(f"{flag} is {text!r}; give numbers with commas between them, such as 1,2,3, or none.")
    return numbers


def _write(table: Any, out: Path) -> None:
    from panmodal._files import atomic_path, write_text

    if out.suffix == ".csv":
        write_text(out, table.to_csv(index=False))
        return
    with atomic_path(out) as partial:
        table.to_parquet(partial, index=False)
