"""The command line for what to do: advise, predict, next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panmodal._console import console_for, plain
from panmodal.errors import InputError

if TYPE_CHECKING:
    from panmodal.embeddings.embedding import Embedding
    from panmodal.screens.screen import Screen

ScreenFile = Annotated[
    str, typer.Option(help="Screen: a file, or the name of a shipped one or a fetched data set.", show_default=False)
]
EmbeddingFile = Annotated[
    str,
    typer.Option(help="Embedding: FILE, NAME=FILE, FILE.h5ad#KEY, a shipped one or DATASET/NAME.", show_default=False),
]
IdCol = Annotated[str | None, typer.Option(help="Column of the ids in the embedding's file. Detected unless given.")]
Response = Annotated[
    str | None,
    typer.Option(help="Kind of response: lfc, rank_score, fitness, continuous. Needed unless the file says."),
]
PertCol = Annotated[str | None, typer.Option(help="Column of the perturbation. Detected unless given.")]
ContextCol = Annotated[
    list[str] | None, typer.Option(help="Column of the context (repeat to join several). Detected unless given.")
]
DropControls = Annotated[bool, typer.Option(help="Remove rows that name control cells instead of refusing them.")]
Match = Annotated[str, typer.Option(help="How ids are matched where names differ: auto, genes, compounds, exact.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(advise)
    app.command()(predict)
    app.command(name="next")(next_)


def advise(
    results: Annotated[Path, typer.Argument(help="Results folder.")],
    metric: Annotated[str | None, typer.Option(help="Metric to choose by; the primary one unless given.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table of advice as csv.")] = None,
    fusion_csv: Annotated[Path | None, typer.Option(help="Write the table of pairs of embeddings as csv.")] = None,
) -> None:
    """Say which embedding to use, how sure that is, and whether fusing two could help.

    Example: `panmodal advise results/`
    """
    from panmodal._files import write_text
    from panmodal.errors import PanmodalError
    from panmodal.evaluation.evidence import read_evidence
    from panmodal.insight import advice
    from panmodal.insight.complement import fusion_sentences, fusion_table

    for path in (csv, fusion_csv):
        if path is not None and path.suffix != ".csv":
            raise InputError(f"{path}: tables of advice are written as .csv.")
    evidence, console = read_evidence(results), console_for()
    table = advice.advise(evidence, metric=metric)
    console.print(_advice_table(table))
    for sentence in advice.sentences(table):
        console.print(f"· {plain(sentence)}", highlight=False)
    console.print(f"[dim]{plain(advice.ABOUT)}[/]\n", highlight=False)
    try:
        fused = fusion_table(evidence, advice.members(evidence, metric=metric))
    except PanmodalError as error:
        if fusion_csv is not None:
            raise
        fused = None
        console.print(f"· Whether fusion could help was not looked at: {plain(str(error))}", highlight=False)
    if fused is not None and len(fused):
        for sentence in fusion_sentences(fused):
            console.print(f"· {plain(sentence)}", highlight=False)
        console.print(f"[dim]{plain(advice.FUSION)}[/]", highlight=False)
    elif fused is not None:
        console.print("· There are no two embeddings to fuse.", highlight=False)
    for path, made in ((csv, table), (fusion_csv, fused)):
        if path is not None and made is not None:
            write_text(path, made.to_csv(index=False))
            console.print(f"Wrote {plain(str(path))}", highlight=False, soft_wrap=True)


def _advice_table(table: Any) -> Any:
    from rich.table import Table

    from panmodal.insight.terminal import number

    shown = Table(title="What to use", title_justify="left", title_style="bold", header_style="bold")
    for column in ("screen", "context", "response", "use", "metric"):
        shown.add_column(column, overflow="fold")
    for column in ("probability of being best", "better than the reference by", "coverage"):
        shown.add_column(column, justify="right")
    shown.add_column("reference", overflow="fold")
    shown.add_column("as good", overflow="fold")
    for row in table.itertuples():
        method = f"{row.embedding}, {row.probe}" if row.verdict == "use" else "none"
        margin = number(row.margin) if row.n_tasks == 1 else f"{number(100 * row.margin, 1)} %"
        other = f"{row.alternative}, {row.alternative_probe}" if row.alternative else ""
        texts = [row.screen, row.context, row.response, method, row.metric, number(row.p_best, 2), margin,
                 "–" if row.coverage != row.coverage else f"{100 * row.coverage:.0f} %", row.reference, other]  # fmt: skip
        shown.add_row(*map(plain, map(str, texts)), style="" if row.verdict == "use" else "dim")
    return shown


def predict(
    screen: ScreenFile,
    embedding: EmbeddingFile,
    out: Annotated[Path, typer.Option(help="File to write: .h5ad (X and layers lower, upper), .csv or .parquet.")],
    ids: Annotated[
        list[str] | None,
        typer.Option(
            help="Perturbation to predict (repeat), or a file with a column pert_id; all not measured unless given."
        ),
    ] = None,
    probe: Annotated[str, typer.Option(help="Probe for numbers: ridge, knn, lasso.")] = "ridge",
    context: Annotated[list[str] | None, typer.Option(help="Only these contexts (repeat).")] = None,
    alpha: Annotated[float, typer.Option(help="Share of intervals that may miss; 0.1 for 90 % intervals.")] = 0.1,
    intervals: Annotated[
        str, typer.Option(help="cv: within about a point of 1 - alpha here; cv+: with a guarantee, and too wide.")
    ] = "cv",
    difficulty: Annotated[
        str, typer.Option(help="neighbours: wider intervals where neighbours are predicted badly; none: equally wide.")
    ] = "neighbours",
    match: Match = "auto",
    id_col: IdCol = None,
    response: Response = None,
    pert_col: PertCol = None,
    context_col: ContextCol = None,
    drop_controls: DropControls = False,
) -> None:
    """Predict responses of perturbations that were not measured, with intervals.

    Example: `panmodal predict --screen S.h5ad --embedding E.h5ad --ids TP53 --ids BRCA1 --out predicted.h5ad`
    """
    from panmodal.evaluation.predict import Prediction, check_target, predict_responses, write_predictions

    check_target(out)
    read, vectors = _inputs(screen, embedding, id_col, response=response, pert_col=pert_col, context_col=context_col,
                            drop_controls=drop_controls)  # fmt: skip
    wanted, console = _ids(ids), console_for()
    made: list[Prediction] = []
    for name in context or read.contexts:
        one = predict_responses(
            read,
            vectors,
            wanted,
            probe=probe,
            context=name,
            alpha=alpha,
            intervals=intervals,
            difficulty=difficulty,
            match=match,
        )
        made.append(one)
        share = f"{100 * (1 - alpha):g} %"
        covered = int(one.about["covered"].sum())
        console.print(f"{plain(name)}: {len(one.ids)} perturbations predicted, {covered} of them from a vector, by {probe} fitted on "
                      f"{one.settings['n_measured']}; {share} intervals for {len(one.readouts)} read-outs each.",
                      highlight=False, soft_wrap=True)  # fmt: skip
        for note in one.notes:
            console.print(f"  [dim]· {plain(note)}[/]", highlight=False)
    write_predictions(made, out)
    console.print("[dim]Intervals hold for perturbations like those measured, on average, not for each; see farther_than in the "
                  "table of ids.[/]", highlight=False)  # fmt: skip
    console.print(f"Wrote {plain(str(out))}", highlight=False, soft_wrap=True)


def next_(
    screen: ScreenFile,
    embedding: EmbeddingFile,
    out: Annotated[Path | None, typer.Option(help="csv file to write, in the order of choice.")] = None,
    n: Annotated[int, typer.Option("-n", "--number", help="How many to choose.")] = 20,
    candidates: Annotated[
        list[str] | None,
        typer.Option(help="Candidate (repeat), or a file with a column pert_id; all not measured unless given."),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="expected-information, variance, diversity or random.")
    ] = "expected-information",
    context: Annotated[str | None, typer.Option(help="Context; needed if the screen has several.")] = None,
    rehearse: Annotated[
        bool, typer.Option(help="Replay what is measured batch by batch first: does choosing beat random here?")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of random choice and of the rehearsal.")] = 0,
    match: Match = "auto",
    id_col: IdCol = None,
    response: Response = None,
    pert_col: PertCol = None,
    context_col: ContextCol = None,
    drop_controls: DropControls = False,
) -> None:
    """Choose which perturbations to measure next.

    Example: `panmodal next --screen S.h5ad --embedding E.h5ad -n 50 --rehearse --out next.csv`
    """
    from panmodal._files import write_text
    from panmodal.evaluation.next_experiments import next_experiments, rehearse_design

    if out is not None and out.suffix != ".csv":
        raise InputError(f"{out}: the choice is written as .csv.")
    read, vectors = _inputs(screen, embedding, id_col, response=response, pert_col=pert_col, context_col=context_col,
                            drop_controls=drop_controls)  # fmt: skip
    console = console_for()
    table, notes = next_experiments(
        read, vectors, n, _ids(candidates), strategy=strategy, context=context, match=match, seed=seed
    )
    for note in notes:
        console.print(f"[dim]· {plain(note)}[/]", highlight=False)
    if rehearse:
        for sentence in rehearse_design(read, vectors, strategy, context=context, batch=n, seed=seed):
            console.print(f"· {plain(sentence)}", highlight=False)
    console.print(f"{len(table)} chosen by {strategy}; the mean predictive variance of the candidates falls to "
                  f"{100 * table['remaining'].iloc[-1]:.0f} % of what it is.", highlight=False)  # fmt: skip
    if out is None:
        for name in table["pert_id"]:
            console.print(plain(name), highlight=False, soft_wrap=True)
        return
    write_text(out, table.to_csv(index=False))
    console.print(f"Wrote {plain(str(out))}", highlight=False, soft_wrap=True)


def _inputs(screen: str, embedding: str, id_col: str | None, **options: Any) -> tuple[Screen, Embedding]:
    from panmodal.evaluation.config import EmbeddingInput, load_screen

    read = EmbeddingInput.parse(embedding)
    if id_col:
        read = read.model_copy(update={"id_col": id_col})
    vectors = read.load_all()
    if len(vectors) != 1:
        raise InputError(f"{embedding}: holds {len(vectors)} embeddings; give one (FILE.h5ad#KEY).")
    return load_screen(screen, **options), vectors[0]


def _ids(given: list[str] | None) -> list[str] | None:
    """Take ids as they are, and those of files from their column pert_id (or their only column)."""
    if not given:
        return None
    from panmodal._tables import read_frame, text_ids

    out: list[str] = []
    for text in given:
        path = Path(text)
        if path.suffix not in (".csv", ".tsv", ".parquet", ".txt"):
            out.append(text)
        elif path.suffix == ".txt":
            if not path.is_file():
                raise InputError(f"{path}: no such file of ids.")
            out += [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            frame = read_frame(path, {"pert_id"})
            if "pert_id" not in frame and frame.shape[1] != 1:
                raise InputError(f"{path}: no column pert_id; a table of ids has it, or one column only.")
            column = "pert_id" if "pert_id" in frame else frame.columns[0]
            out += text_ids(frame[column].tolist(), str(column), str(path))
    return out
