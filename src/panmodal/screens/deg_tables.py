"""DEG labels from a long table of differential-expression tests: one row per (perturbation, gene) of each context."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from panmodal._tables import TEXT_SUFFIXES, plain_text, stem, suffix
from panmodal.errors import InputError, some
from panmodal.perturbation_ids import canonical, is_control
from panmodal.screens.deg_columns import DegColumns
from panmodal.screens.reading import row_contexts
from panmodal.screens.screen import Screen

MISSING_NUMBERS = ("", "NA", "NaN", "nan", "<NA>", "N/A", "n/a", "NULL", "null", "None")
"""What a number that is missing is written as; DESeq2 writes NA for genes that it filters."""


@dataclass(frozen=True)
class CallingRule:
    """When a test is called: adjusted p at most ``alpha`` and absolute effect at least ``min_effect``.

    ``missing`` says what becomes of pairs that are not in the table: ``error``, or ``zero`` for the label 0.

    Raises
    ------
    InputError
        ``alpha`` outside (0, 1], ``min_effect`` negative or not finite, another ``missing``.
    """

    alpha: float = 0.05
    min_effect: float = 0.0
    missing: str = "error"

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}, but a level lies above 0 and is at most 1.")
        if not 0 <= self.min_effect < math.inf:
            raise InputError(f"min_effect is {self.min_effect}, but an absolute effect is a number of 0 or more.")
        if self.missing not in ("error", "zero"):
            raise InputError(f"missing is {self.missing!r}; known are 'error' and 'zero'.")


def read_deg_table(
    path: Path,
    columns: DegColumns,
    rule: CallingRule,
    *,
    name: str | None = None,
    context: str | None = None,
    contexts: Sequence[str] | None = None,
    drop_controls: bool = False,
) -> Screen:
    """Read DEG labels from a table of tests.

    The label is the sign of the effect where the adjusted p is at most ``rule.alpha`` and the absolute effect at least
    ``rule.min_effect``, else 0. p-values that are not adjusted are, within each (perturbation, context), by the step-up rule of
    Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57; missing ones are no tests. A test without p is not called.

    Parameters
    ----------
    path, columns
        The file, and its columns from :func:`~panmodal.screens.deg_columns.find_deg_columns`; no others are read.
    rule
        When a test is called.
    name, context, contexts, drop_controls
        As in :func:`panmodal.screens.reading.read_screen`.

    Returns
    -------
    Screen
        Contexts, perturbations and genes sorted, whatever the order of the table; int8.

    Raises
    ------
    InputError
        The file cannot be read; ids are empty; p-values outside 0 to 1; text among numbers; ratios below 0; a significant test
        without effect; repeated tests; pairs without test (unless ``rule.missing`` is ``zero``); no valid screen.
    """
    import anndata

    where, notes = str(path), [columns.note]
    table = _read(path, columns)
    tests = _tests(table, columns, context, where, notes)
    effect, p = (_numbers(table, column, tests, where) for column in (columns.effect, columns.p))
    del table  # of 40 million rows it holds gigabytes
    keep = _kept(tests, contexts, drop_controls, where, notes)
    if not keep.all():
        tests, effect, p = tests.at(keep), effect[keep], p[keep]
    effect = _checked(effect, p, tests, columns, where)

    n_genes, n_perturbations = len(tests.genes.names), len(tests.perturbations.names)
    pair, pairs = pd.factorize(
        tests.contexts.codes.astype(np.int64) * n_perturbations + tests.perturbations.codes, sort=True
    )
    cell = pair * n_genes + tests.genes.codes
    _require_complete(tests, pair, cell, columns, rule, where, notes)
    if not columns.adjusted:
        p = _adjust(p, pair, len(pairs))
        notes.append(f"p from {columns.p!r} adjusted by Benjamini-Hochberg within each (perturbation, context)")
    labels = np.zeros(len(pairs) * n_genes, dtype=np.int8)
    labels[cell] = _call(effect, p, tests, columns, rule, where, notes)

    ids = [tests.perturbations.names[i] for i in pairs % n_perturbations]
    lines = [tests.contexts.names[i] for i in pairs // n_perturbations]
    obs = pd.DataFrame(
        {"pert_id": ids, "cell_line": lines}, index=[f"{c}|{i}" for i, c in zip(ids, lines, strict=True)]
    )
    adata = anndata.AnnData(labels.reshape(len(pairs), n_genes), obs=obs, var=pd.DataFrame(index=tests.genes.names))
    shown = f"log2({columns.effect})" if columns.ratio else columns.effect
    by = columns.p if columns.adjusted else f"Benjamini-Hochberg of {columns.p}"
    description = f"DEG labels from adjusted p <= {rule.alpha:g} ({by}) and |{shown}| >= {rule.min_effect:g}"
    try:
        return Screen(adata, name=name or stem(path), response="deg", description=description, notes=notes)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@dataclass(frozen=True)
class _Coded:
    """A column of ids: the code of each row, and the names, sorted, that the codes stand for."""

    names: list[str]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, texts: Iterable[str], codes: NDArray[Any]) -> _Coded:
        """Merge the codes of the same text."""
        names, place = np.unique(np.array(list(texts), dtype=object), return_inverse=True)
        return cls(names.tolist(), place.astype(np.int32)[codes])

    def at(self, rows: NDArray[Any]) -> _Coded:
        """Return some rows, without the names that are in none of them."""
        codes, used = pd.factorize(self.codes[rows], sort=True)
        return _Coded([self.names[i] for i in used], codes.astype(np.int32))


@dataclass(frozen=True)
class _Tests:
    """What was tested in each row."""

    perturbations: _Coded
    genes: _Coded
    contexts: _Coded

    def at(self, rows: NDArray[Any]) -> _Tests:
        return _Tests(self.perturbations.at(rows), self.genes.at(rows), self.contexts.at(rows))

    def name(self, rows: NDArray[Any], limit: int = 3) -> str:
        """Name the first few rows."""
        columns = (self.genes, self.perturbations, self.contexts)
        named = ["{!r} of {!r} in {!r}".format(*(c.names[c.codes[i]] for c in columns)) for i in rows[:limit]]
        return ", ".join(named) + ", ..." * (len(rows) > limit)


def _read(path: Path, columns: DegColumns) -> Any:
    """Read the columns needed as an Arrow table, ids as codes."""
    import pyarrow.csv
    import pyarrow.parquet

    kind = suffix(path)
    ids = [columns.perturbation, columns.gene, *columns.contexts]
    wanted = list(dict.fromkeys((*ids, columns.effect, columns.p)))
    try:
        if kind == ".parquet":
            table = pyarrow.parquet.ParquetFile(path, read_dictionary=ids).read(columns=wanted)
        else:
            # Ids are text whatever they look like: 007, NA and 1-Mar stay.
            as_codes = dict.fromkeys(ids, pa.dictionary(pa.int32(), pa.string()))
            with pa.input_stream(str(path), compression="gzip" if path.suffix.lower() == ".gz" else None) as stream:
                table = pyarrow.csv.read_csv(
                    stream,
                    parse_options=pyarrow.csv.ParseOptions(delimiter=TEXT_SUFFIXES[kind]),
                    convert_options=pyarrow.csv.ConvertOptions(
                        column_types=as_codes, include_columns=wanted, null_values=list(MISSING_NUMBERS)
                    ),
                )
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as {kind[1:]} ({error}). Is it complete?") from error
    if table.num_rows == 0:
        raise InputError(f"{path}: the table is empty (0 rows, {len(columns.names)} columns).")
    return table


def _encode(table: Any, column: str, what: str, where: str) -> tuple[list[str], NDArray[np.int32]]:
    """Return the ids of a column, each once, and the code of each row; refuse empty ids."""
    values = pd.Categorical(table.column(column).to_pandas()).remove_unused_categories()
    texts = [plain_text(v).strip() for v in values.categories]
    blank = np.array([not t for t in texts] + [True])  # the last is code -1, a missing value
    empty = np.flatnonzero(blank[values.codes])
    if len(empty):
        raise InputError(f"{where}: {what} ({column}) is empty in row(s) {some(empty + 1)}. Fill it or remove them.")
    return texts, values.codes.astype(np.int32)


def _tests(table: Any, columns: DegColumns, context: str | None, where: str, notes: list[str]) -> _Tests:
    """Read what was tested: perturbations in canonical form, genes, and contexts by the rule of any screen."""
    raw, codes = _encode(table, columns.perturbation, "the perturbation", where)
    changed = [f"{i} -> {canonical(i)}" for i in raw if i != canonical(i)]
    if changed:
        notes.append(f"{len(changed)} perturbation id(s) written in canonical form ({', '.join(changed[:3])})")
    perturbations = _Coded.of(map(canonical, raw), codes)
    genes = _Coded.of(*_encode(table, columns.gene, "the gene", where))
    used = columns.contexts if context is None else columns.contexts_given
    encoded = [_encode(table, c, "the context", where) for c in used]
    # One row for each combination of labels is enough to name the contexts.
    shape = [1, *(len(texts) for texts, _ in encoded)]
    line, seen = pd.factorize(np.ravel_multi_index([np.zeros_like(codes), *(c for _, c in encoded)], shape))
    each = zip(used, encoded, np.unravel_index(seen, shape)[1:], strict=True)
    frame = pd.DataFrame({c: np.take(texts, at) for c, (texts, _), at in each}, index=range(len(seen)))
    roles = {columns.perturbation, columns.gene, columns.effect, columns.p} - set(columns.contexts)
    frame = frame.reindex(columns=[n for n in columns.names if n not in roles])
    return _Tests(
        perturbations, genes, _Coded.of(row_contexts(frame, columns.contexts_given, context, where, notes), line)
    )


def _numbers(table: Any, column: str, tests: _Tests, where: str) -> NDArray[np.float64]:
    """Return a column as numbers, missing ones as NaN; text is refused with its row."""
    values = table.column(column)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if any(holds(kind) for holds in (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)):
        return values.cast(kind).cast(pa.float64(), safe=False).to_numpy()
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{where}: column {column!r} holds {kind}, not numbers. Convert it or rename it.")
    text = values.cast(kind).to_pandas()
    text = text.mask(text.isin(MISSING_NUMBERS))
    parsed = pd.to_numeric(text, errors="coerce")
    bad = np.flatnonzero((parsed.isna() & text.notna()).to_numpy())
    if len(bad):
        raise InputError(
            f"{where}: column {column!r} holds text: {str(text.iloc[bad[0]])!r} in row {bad[0] + 1} ({tests.name(bad[:1])}); "
            f"{len(bad)} such cell(s). Write numbers only, NA where there is none."
        )
    return parsed.to_numpy(dtype=np.float64)


def _kept(
    tests: _Tests, contexts: Sequence[str] | None, drop_controls: bool, where: str, notes: list[str]
) -> NDArray[np.bool_]:
    """Tell which rows stay when contexts are chosen and controls removed."""
    unknown = [c for c in contexts or [] if c not in tests.contexts.names]
    if unknown:
        raise InputError(f"{where}: no context {some(unknown)}; it has {some(tests.contexts.names, 12)}.")
    keep = np.isin(tests.contexts.names, list(contexts or tests.contexts.names))[tests.contexts.codes]
    control = np.array([drop_controls and is_control(i) for i in tests.perturbations.names])
    removed = keep & control[tests.perturbations.codes]
    if removed.any():
        named = np.array(tests.perturbations.names, dtype=object)[control]
        notes.append(f"{int(removed.sum())} test(s) of control cells removed ({some(named, 3)})")
        keep &= ~removed
    if not keep.any():
        raise InputError(f"{where}: empty (0 tests are left): all are of control cells.")
    return keep


def _checked(
    effect: NDArray[np.float64], p: NDArray[np.float64], tests: _Tests, columns: DegColumns, where: str
) -> NDArray[np.float64]:
    """Check that p-values and ratios can be some; return the effects, ratios as log2."""
    bad = np.flatnonzero((p < 0) | (p > 1))
    if len(bad):
        raise InputError(
            f"{where}: column {columns.p!r} holds {len(bad)} value(s) outside 0 to 1, first {p[bad[0]]:g}, which are no "
            f"p-values: {tests.name(bad)}. Correct them, or write NA for tests without p."
        )
    if not columns.ratio:
        return effect
    bad = np.flatnonzero(effect < 0)
    if len(bad):
        raise InputError(
            f"{where}: column {columns.effect!r} is read as ratios, but {len(bad)} are negative, first {effect[bad[0]]:g}: "
            f"{tests.name(bad)}. If it holds log2 ratios (as that of pdex 0.2), rename it to 'log2_fold_change'."
        )
    with np.errstate(divide="ignore"):
        return np.log2(effect)


def _require_complete(tests: _Tests, pair: NDArray[np.int64], cell: NDArray[np.int64], columns: DegColumns, rule: CallingRule,
                      where: str, notes: list[str]) -> None:  # fmt: skip
    """Refuse repeated tests and, unless they are to be 0, pairs without a test."""
    counts, n_genes = np.bincount(pair), len(tests.genes.names)
    total = len(counts) * n_genes
    if rule.missing == "error" and total > len(cell):
        # Said without an array of all pairs, which would be huge where a wrong column was taken for the perturbation.
        rows = np.flatnonzero(pair == np.flatnonzero(counts < n_genes)[0])
        gaps = np.setdiff1d(np.arange(n_genes), tests.genes.codes[rows])
        i, c = tests.perturbations.codes[rows[0]], tests.contexts.codes[rows[0]]
        raise InputError(
            f"{where}: {total - len(pd.unique(cell))} of {total} tests are missing: not every gene ({columns.gene}) is there for "
            f"every perturbation ({columns.perturbation}) in every context; {tests.perturbations.names[i]!r} in "
            f"{tests.contexts.names[c]!r} lacks {some([tests.genes.names[g] for g in gaps], 3)}. Add them or, if they were not "
            'tested or not significant, label them 0 with missing="zero" (--missing zero).'
        )
    seen = np.zeros(total, dtype=bool)
    seen[cell] = True
    there = int(np.count_nonzero(seen))
    if there < len(cell):
        again = np.flatnonzero(pd.Series(cell).duplicated().to_numpy())
        raise InputError(
            f"{where}: {len(again)} test(s) appear more than once: {tests.name(again)}. Keep one row for each perturbation "
            f"({columns.perturbation}) and gene ({columns.gene}), or name the column of their contexts with --context-col."
        )
    if there < total:
        notes.append(f"{total - there} of {total} (perturbation, gene) tests are not in the table: label 0")


def _adjust(p: NDArray[np.float64], pair: NDArray[np.int64], n_pairs: int) -> NDArray[np.float64]:
    """Adjust by Benjamini-Hochberg (1995) within each pair; missing p-values are no tests and stay missing."""
    from scipy.stats import false_discovery_control

    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(pair[tested], kind="stable")]
    for rows in np.split(order, np.cumsum(np.bincount(pair[tested], minlength=n_pairs))[:-1]):
        if len(rows):
            adjusted[rows] = false_discovery_control(p[rows], method="bh")
    return adjusted


def _call(effect: NDArray[np.float64], adjusted: NDArray[np.float64], tests: _Tests, columns: DegColumns, rule: CallingRule,
          where: str, notes: list[str]) -> NDArray[np.int8]:  # fmt: skip
    """Return the label of each test."""
    called = adjusted <= rule.alpha  # False where p is missing
    unknown = np.flatnonzero(called & np.isnan(effect))
    if len(unknown):
        raise InputError(
            f"{where}: column {columns.effect!r} is empty in {len(unknown)} significant test(s), whose sign is then unknown: "
            f"{tests.name(unknown)}. Fill it, or write NA for their p."
        )
    for count, what in (
        (np.isnan(adjusted).sum(), f"test(s) without p in column {columns.p!r} are not called"),
        ((called & (effect == 0)).sum(), "significant test(s) have an effect of exactly 0"),
    ):
        if count:
            notes.append(f"{count} {what}: label 0")
    called &= np.abs(effect) >= rule.min_effect
    return np.where(called, np.sign(effect), 0.0).astype(np.int8)
