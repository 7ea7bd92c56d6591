"""The command line of fusion: fuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panmodal._console import console_for, plain, trial_progress
from panmodal.cli_advise import ContextCol, DropControls, IdCol, Match, PertCol, ScreenFile, _ids
from panmodal.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from panmodal.embeddings.embedding import Embedding
    from panmodal.screens.screen import Screen
    from panmodal.screens.splits import Split


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(fuse)


def fuse(
    screen: ScreenFile,
    embedding: Annotated[
        list[str],
        typer.Option(
            help="Embedding (repeat): FILE, NAME=FILE, FILE.h5ad#KEY, FILE.h5ad#* for all, a name.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .h5ad (X, and layers of the spread), .csv or .parquet.")
    ] = None,
    fusion: Annotated[
        str, typer.Option(help="How embeddings are fused: kernels, concat, late, stack, attention, ...")
    ] = "kernels",
    option: Annotated[list[str] | None, typer.Option(help="Option of the fusion as KEY=VALUE (repeat).")] = None,
    members: Annotated[int, typer.Option(help="Mean of so many fits with seeds of their own.")] = 1,
    ids: Annotated[
        list[str] | None,
        typer.Option(
            help="Perturbation to predict (repeat), a file with a column pert_id, or 'screen' for those measured in other "
            "contexts only; all that an embedding has unless given."
        ),
    ] = None,
    context: Annotated[list[str] | None, typer.Option(help="Only these contexts (repeat).")] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            help="First hold out what was measured fold by fold: is the fusion better than the best embedding alone?"
        ),
    ] = False,
    rehearsal: Annotated[
        Path | None, typer.Option(help="csv file for the rows of the rehearsal; implies --rehearse.")
    ] = None,
    splits: Annotated[
        str | None, typer.Option(help="Folds of the rehearsal: csv with pert_id and fold, or 'published'.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Number of folds of the rehearsal.")] = 5,
    weights: Annotated[
        Path | None, typer.Option(help="csv file for what the fusion learned of its modalities.")
    ] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder in which long fits keep what they have, to go on after an interruption.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or a torch device, for fusions that can use one.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads for fusions that can use several.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the fit and of the folds.", min=0)] = 42,
    match: Match = "auto",
    id_col: IdCol = None,
    response: Annotated[
        str | None,
        typer.Option(help="Kind of response: lfc, deg, rank_score, fitness, continuous. Needed unless the file says."),
    ] = None,
    pert_col: PertCol = None,
    context_col: ContextCol = None,
    drop_controls: DropControls = False,
) -> None:
    """Fit a fusion of several embeddings on a screen and predict what was not measured, or rehearse it.

    Example: `panmodal fuse --screen S.h5ad --embedding A.h5ad --embedding B.h5ad --out fused.h5ad --rehearse`
    """
    from panmodal._files import write_text
    from panmodal.evaluation.config import PUBLISHED, load_screen, make_config
    from panmodal.evaluation.fuse import Method, fuse, write_fused
    from panmodal.evaluation.fuse_inputs import OF_SCREEN, chosen_contexts, gather
    from panmodal.evaluation.predict import check_target
    from panmodal.fusion.base import Setting

    rehearse = rehearse or rehearsal is not None
    _check_files(out, rehearse, rehearsal, weights)
    if out is not None:
        check_target(out)
    options = parse_options(option or [])
    how: dict[str, Any] = {
        "response": response,
        "pert_col": pert_col,
        "context_col": context_col,
        "drop_controls": drop_controls,
    }
    read = load_screen(screen, **how)
    vectors = _embeddings(embedding, id_col)
    chosen: dict[str, Any] = {"options": options, "members": members, "contexts": context or None, "match": match, "seed": seed,
                              "device": device, "threads": threads, "folder": checkpoints}  # fmt: skip
    Method.of(read, fusion, options, members, Setting(seed, device, threads))  # before anything long
    wanted: Any = OF_SCREEN if ids == [OF_SCREEN] else _ids(ids)
    console = console_for()
    for note in read.notes:
        console.print(f"[dim]· {plain(note)}[/]", highlight=False)
    if rehearse:
        if out is not None:
            gather(
                read, vectors, chosen_contexts(read, context or None), wanted, match
            )  # its errors before anything long
        held = load_screen(screen, tested_only=True, **how) if splits == PUBLISHED else read
        asked = {"screen": screen, "embeddings": embedding, "out": ".", "splits": splits, "folds": folds, "seed": seed}
        split = make_config(asked, "--folds").load_split(held)
        _rehearse(console, held, vectors, split, fusion, chosen, rehearsal)
    if out is None and weights is None:
        return
    with trial_progress("fit") as progress:
        made = fuse(read, vectors, fusion, ids=[] if out is None else wanted, progress=progress, **chosen)
    for one in made:
        _say(console, one)
    learned = _concat([p.weights for p in made])
    for table in weight_tables(learned):
        console.print(table)
    if weights is not None:
        write_text(weights, learned.to_csv(index=False))
        console.print(f"Wrote {plain(str(weights))}", highlight=False, soft_wrap=True)
    if out is not None:
        write_fused(made, out)
        console.print(f"Wrote {plain(str(out))}", highlight=False, soft_wrap=True)


def parse_options(given: list[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; values are YAML (numbers, true, [a, b], text).

    Raises
    ------
    InputError
        No ``=``, a key twice, or a value that is no YAML.
    """
    import yaml

    out: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--option {text!r}: write it as KEY=VALUE.")
        if key in out:
            raise InputError(f"--option {key}: given twice.")
        try:
            out[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--option {text!r}: the value cannot be read: {str(error).splitlines()[0]}") from None
    return out


def weight_tables(learned: pd.DataFrame) -> list[Table]:
    """Lay out what a fusion learned of its modalities, one table for each kind of number, contexts side by side.

    Weights and attention are summed over the parts of a modality and shown as shares of their total; other numbers as they are.
    """
    from rich.table import Table

    from panmodal.insight.terminal import number, share

    made = []
    for what, part in learned.groupby("what", sort=False):
        shares = str(what) in ("weight", "attention") and bool((part["value"] >= 0).all())
        label = (
            part["modality"]
            if shares
            else part["modality"].where(part["part"] == "", part["modality"] + ", " + part["part"])
        )
        summed = part.assign(row=label).groupby(["row", "context"], sort=False)["value"].sum(min_count=1)
        wide = summed.unstack("context").reindex(index=dict.fromkeys(label), columns=dict.fromkeys(part["context"]))
        wide = wide / wide.sum() if shares else wide
        title = f"{what} of each modality" + (", share" if shares else "")
        shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold", min_width=len(title))
        shown.add_column("modality", overflow="fold")
        for context in wide.columns:
            shown.add_column(plain(str(context) or "all contexts"), justify="right")
        for name, row in wide.iterrows():
            cells = [("–" if v != v else share(v)) if shares else number(v) for v in row]
            shown.add_row(plain(str(name)), *cells)
        made.append(shown)
    return made


def rehearsal_table(summary: pd.DataFrame, context: str) -> Table:
    """Lay out the comparison of one context."""
    from rich.table import Table

    from panmodal.insight.terminal import number

    rows = summary[summary["context"] == context]
    metric, unit = rows["metric"].iloc[0], "perturbations" if rows["metric"].iloc[0] == "L2" else "folds"
    arrow = "lower is better" if metric == "L2" else "higher is better"
    shown = Table(title=plain(f"{context} — {metric}, {arrow}, mean over {rows['n'].iloc[0]} {unit}"), title_justify="left",
                  title_style="bold", header_style="bold")  # fmt: skip
    shown.add_column("method", overflow="fold")
    for column in (str(metric), "the fusion is better by", "95 % interval"):
        shown.add_column(column, justify="right")
    for row in rows.itertuples():
        name = f"{row.method}{' (best alone)' if row.best else ''}"
        between = "" if row.low != row.low else f"{number(row.low)} … {number(row.high)}"
        shown.add_row(plain(name), number(row.mean), "" if row.role == "fusion" else number(row.gain), between,
                      style="dim" if row.role == "baseline" else "")  # fmt: skip
    return shown


def rehearsal_sentences(summary: pd.DataFrame) -> list[str]:
    """Say for each context whether the fusion beat the best embedding alone, and whether its spread tells its errors."""
    from panmodal.insight.terminal import number

    said = []
    for context, rows in summary.groupby("context", sort=False):
        fused, best = rows[rows["role"] == "fusion"].iloc[0], rows[rows["best"]]
        for row in best.itertuples():
            if row.low != row.low:
                verdict = "cannot be told from"
            else:
                verdict = "beats" if row.low > 0 else "is beaten by" if row.high < 0 else "cannot be told from"
            between = "" if row.low != row.low else f" ({number(row.low)} … {number(row.high)})"
            said.append(f"{context}: {fused['method']} {verdict} {row.method}, the best embedding alone; gain {number(row.gain)}"
                        f"{between} in {row.metric}.")  # fmt: skip
        if best.empty:
            said.append(f"{context}: no embedding covers enough in every fold to be probed alone.")
        if fused["sd_correlation"] == fused["sd_correlation"]:
            said.append(
                f"{context}: the fusion's sd and its error have rank correlation {number(fused['sd_correlation'], 2)}."
            )
    return said


def _rehearse(
    console: Console, screen: Screen, embeddings: list[Embedding], split: Split, fusion: str, chosen: dict[str, Any], file: Path | None
) -> None:  # fmt: skip
    from panmodal._files import write_text
    from panmodal.evaluation.fuse_rehearsal import rehearse, summarise

    with trial_progress("folds") as progress:
        table = rehearse(screen, embeddings, split, fusion, progress=progress, **chosen)
    summary = summarise(table)
    for context in dict.fromkeys(summary["context"]):
        console.print(rehearsal_table(summary, context))
    for sentence in rehearsal_sentences(summary):
        console.print(f"· {plain(sentence)}", highlight=False)
    if file is not None:
        write_text(file, table.to_csv(index=False))
        console.print(f"Wrote {plain(str(file))}", highlight=False, soft_wrap=True)


def _say(console: Console, one: Any) -> None:
    own = one.settings
    n, covered = len(one.ids), int(one.about["covered"].sum())
    predicted = f"{n} perturbations predicted, {covered} of them from a vector, by " if n else ""
    jointly = ", jointly with the other contexts" if own["joint"] else ""
    console.print(f"{plain(one.context)}: {predicted}{plain(own['fusion'])} fitted on {own['n_trained_on']}{jointly}.",
                  highlight=False, soft_wrap=True)  # fmt: skip
    for sentence in (*own["coverage"], *one.notes):
        console.print(f"  [dim]· {plain(sentence)}[/]", highlight=False)


def _embeddings(given: list[str], id_col: str | None) -> list[Embedding]:
    from panmodal.evaluation.config import EmbeddingInput

    found: list[Embedding] = []
    for text in given:
        one = EmbeddingInput.parse(text)
        found += (one.model_copy(update={"id_col": id_col}) if id_col else one).load_all()
    return found


def _check_files(out: Path | None, rehearse: bool, rehearsal: Path | None, weights: Path | None) -> None:
    if out is None and weights is None and not rehearse:
        raise InputError("nothing to do: give --out FILE for predictions, --weights FILE, or --rehearse.")
    for path, what in ((rehearsal, "a rehearsal"), (weights, "weights")):
        if path is not None and path.suffix != ".csv":
            raise InputError(f"{path}: {what} is written as .csv.")


def _concat(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    # What a joint fusion learned of all contexts at once is told once.
    return pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)
