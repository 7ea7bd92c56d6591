"""The plan: which trials a run consists of, grouped so that shared work is done once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from panmodal.embeddings.align import align
from panmodal.embeddings.controls import (
    IDEALISED,
    PERMUTED_SUFFIX,
    RANDOM,
    idealised_embedding,
    permuted_embedding,
    random_embedding,
)
from panmodal.embeddings.embedding import Embedding
from panmodal.errors import InputError, some
from panmodal.evaluation.compare import baselines
from panmodal.evaluation.fusion_input import FUSION, FusionInput
from panmodal.evaluation.fusion_plan import FusionPlan, plan_fusion
from panmodal.evaluation.trials import BASELINE, Trial, dependencies
from panmodal.identifiers import CompoundResolver, CompoundTable
from panmodal.identifiers.compound_table import CID_COLUMNS, KEY_COLUMNS, SMILES_COLUMNS
from panmodal.probes.base import Probe, get_probe, probes
from panmodal.probes.design import MIN_TRAIN
from panmodal.screens.screen import Screen
from panmodal.screens.splits import Split, audit
from panmodal.studies import seen

RESERVED = (BASELINE, RANDOM, IDEALISED)
BASELINE_MODALITY = "baseline"


@dataclass(frozen=True)
class Source:
    """What stands in the embedding column: an embedding with its role, a fusion of several, or nothing (baselines).

    ``standardise`` is False for the idealised oracle: its dimensions are principal components and carry their scale.
    """

    embedding: Embedding | None
    role: str
    contexts: tuple[str, ...]
    standardise: bool = True
    fusion: FusionPlan | None = None

    @property
    def name(self) -> str:
        """Name in the embedding column."""
        if self.fusion is not None:
            return self.fusion.name
        return self.embedding.name if self.embedding is not None else BASELINE

    @property
    def modality(self) -> str:
        """What kind of embedding it is."""
        if self.fusion is not None:
            return FUSION
        return self.embedding.card.modality if self.embedding is not None else BASELINE_MODALITY

    @property
    def digest(self) -> str | None:
        """What a trial's digest holds of it."""
        if self.fusion is not None:
            return self.fusion.digest
        return self.embedding.digest if self.embedding is not None else None


@dataclass(frozen=True)
class Group:
    """Trials that share an embedding and a fold, and with them the projection."""

    source: int
    fold: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Plan:
    """All trials of a run.

    Attributes
    ----------
    sources
        Embeddings, controls and baselines.
    groups
        The work, by source and fold.
    notes
        What a user should know before it starts.
    """

    screen: Screen
    split: Split
    sources: tuple[Source, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def trials(self) -> list[Trial]:
        """All trials of all groups."""
        return [t for g in self.groups for t in g.trials]


def choose_probes(kind: str, names: Sequence[str] | None) -> list[Probe]:
    """Return the probes that serve a kind of response, all or the named ones."""
    chosen = [get_probe(n) for n in names] if names else [p for p in probes().values() if kind in p.kinds]
    wrong = [p.name for p in chosen if kind not in p.kinds]
    if wrong or not chosen:
        serving = [p.name for p in probes().values() if kind in p.kinds]
        raise InputError(
            f"no probe {some(wrong) if wrong else ''} for responses of kind {kind!r}; this version has "
            f"{', '.join(serving) or 'none'}."
        )
    return chosen


def make_plan(
    screen: Screen,
    embeddings: Sequence[Embedding],
    split: Split,
    *,
    probe_names: Sequence[str] | None = None,
    seed: int = 42,
    permuted: bool = False,
    match: str = "auto",
    fusions: Sequence[FusionInput] = (),
) -> Plan:
    """Lay out every trial, after all checks that need no fitting.

    Ids of embeddings are matched to those of the screen by name, then by identifier (``match``: ``auto``, ``genes``,
    ``compounds``; ``exact`` for by name alone); the notes say which.

    Raises
    ------
    InputError
        No probe for this kind of response; an embedding shares no or too few ids with a context; names clash; a fold is
        empty in a context; the split misses ids.
    LeakError
        The split breaks its promise.
    """
    chosen = choose_probes(screen.response, probe_names)
    ids = screen.pert_ids
    notes = [*screen.notes, *audit(split, ids, f"screen {screen.name!r}")]
    _check_names([e.name for e in embeddings], [])
    contexts = tuple(screen.contexts)
    sides = {(c, f): split.sides(screen.ids_in(c), f) for c in contexts for f in split.numbers}
    for (context, fold), (train, test) in sides.items():
        if not test or len(train) < MIN_TRAIN:
            raise InputError(
                f"screen {screen.name!r}, context {context!r}, fold {fold}: {len(train)} training and {len(test)} test "
                f"perturbation(s); at least {MIN_TRAIN} and 1 are needed. Leave the context out (--contexts) or use fewer folds."
            )
    sources: list[Source] = [Source(None, "baseline", contexts)]
    try:
        compounds = own_compounds(screen)
    except InputError as error:
        compounds = None
        notes.append(f"compounds are matched without what the screen says of them: {error}")
    for given in embeddings:
        embedding, joined = align(given, ids, match, compounds)
        if joined.resolved or joined.ambiguous:
            notes.append(f"{embedding.name}: {joined.summary()}")
        notes.append(f"{embedding.name}: {_check_coverage(embedding, screen, sides)}")
        narrow = embedding.restricted(sorted(embedding.coverage(ids).covered))
        sources.append(Source(narrow, "embedding", contexts))
        if permuted:
            sources.append(Source(permuted_embedding(narrow, ids, seed), "control", contexts))
    for asked in fusions:
        sources += _fusion_sources(asked, sources, screen, permuted)
    _check_names(
        [s.name for s in sources if s.role == "embedding" and s.fusion is None], [s.fusion for s in sources if s.fusion]
    )
    sources.append(Source(random_embedding(ids, seed), "control", contexts))
    for context in contexts:
        oracle = idealised_embedding(*screen.responses(context))
        sources.append(Source(oracle, "oracle", (context,), standardise=False))
    digests = {c: screen.digest(c) for c in contexts}
    groups = []
    for number, source in enumerate(sources):
        for fold in split.numbers:
            trials = tuple(_trials(screen, split, digests, source, fold, chosen, seed))
            groups.append(Group(number, fold, trials))
    return Plan(screen, split, tuple(sources), tuple(groups), tuple(notes))


def _trials(
    screen: Screen, split: Split, digests: dict[str, str], source: Source, fold: int, chosen: Sequence[Probe], seed: int
) -> list[Trial]:
    made = []
    if source.fusion is not None:
        identities = [source.fusion.identity({c: digests[c] for c in source.contexts})]
    elif source.embedding is None:
        identities = [{"name": name, "rule": 1} for name in baselines(screen.response)]
    else:
        identities = [p.identity() for p in chosen]
    for context in source.contexts:
        for identity in identities:
            # The row permutation and the random vectors are in the embedding's digest already.
            depends = dependencies(
                responses=digests[context], split=split.digest, fold=fold, probe=identity, standardise=source.standardise,
                embedding=source.digest, seed=seed if source.digest else 0,
            )  # fmt: skip
            made.append(Trial(
                screen=screen.name, context=context, response=screen.response, split=split.name, fold=fold,
                embedding=source.name, probe=str(identity["name"]), seed=seed, role=source.role, modality=source.modality,
                simulated=screen.simulated, depends=depends, seen=_seen(source, screen),
            ))  # fmt: skip
    return made


def own_compounds(screen: Screen) -> CompoundResolver | None:
    """Return a resolver of the compounds whose structures or CIDs the screen says; None if it says none.

    Raises
    ------
    InputError
        A CID or InChIKey is not one.
    """
    obs = screen.adata.obs
    columns = [c for c in obs.columns if str(c).lower() in (*CID_COLUMNS, *SMILES_COLUMNS, *KEY_COLUMNS)]
    if not columns:
        return None
    frame = (
        obs[["pert_id", *[c for c in columns if c != "pert_id"]]].drop_duplicates().rename(columns={"pert_id": "name"})
    )
    return CompoundResolver(CompoundTable(frame, f"screen {screen.name!r}"))


def _seen(source: Source, screen: Screen) -> str:
    """Whether the embedding was trained on the screen's data set; controls and baselines were not."""
    if source.role != "embedding" or source.digest is None:
        return "no"
    if source.fusion is not None:
        own = {seen(e.card.trained_on, screen.datasets) for e in source.fusion.embeddings}
        return "yes" if "yes" in own else "unknown" if "unknown" in own else "no"
    assert source.embedding is not None
    return seen(source.embedding.card.trained_on, screen.datasets)


def _fusion_sources(asked: FusionInput, sources: Sequence[Source], screen: Screen, permuted: bool) -> list[Source]:
    """Return the source of a fusion, and with ``permuted`` that of the same fusion of row-permuted embeddings."""
    by_name = {s.name: k for k, s in enumerate(sources) if s.embedding is not None and s.fusion is None}
    names = [n for n, k in by_name.items() if sources[k].role == "embedding"]
    chosen = asked.chosen(names)
    contexts = tuple(screen.contexts)
    found = []
    for suffix, role in (("", "embedding"), (PERMUTED_SUFFIX, "control"))[: 1 + permuted]:
        members = tuple(by_name[n + suffix] for n in chosen)
        embeddings = [e for k in members if (e := sources[k].embedding) is not None]
        plan = plan_fusion(asked, members, embeddings, screen.response, suffix)
        found.append(Source(None, role, contexts, fusion=plan))
    return found


def _check_names(names: Sequence[str], fusions: Sequence[FusionPlan]) -> None:
    labels = [(f.name, f.label) for f in fusions]
    same = sorted({f"{n} ({m})" for n, m in labels if labels.count((n, m)) > 1})
    if same:
        raise InputError(f"two fusions are named {some(same)}. Name them apart: --fusion NAME=METHOD.")
    clash = sorted({n for n, _ in labels if n in names})
    if clash:
        raise InputError(
            f"{some(clash)} is the name of an embedding and of a fusion. Name them apart: --fusion NAME=METHOD."
        )
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"two embeddings are named {some(twice)}. Name them apart: --embedding NAME=FILE.")
    taken = [
        n
        for n in (*names, *(f.name.removesuffix(f.suffix) for f in fusions))
        if n in RESERVED or n.endswith(PERMUTED_SUFFIX)
    ]
    if taken:
        raise InputError(
            f"{some(taken)} is the name of a control. Name it otherwise: --embedding NAME=FILE, --fusion NAME=METHOD."
        )


def _check_coverage(
    embedding: Embedding, screen: Screen, sides: dict[tuple[str, int], tuple[list[str], list[str]]]
) -> str:
    coverage = embedding.coverage(screen.pert_ids)
    if not coverage.covered:
        raise InputError(
            f"embedding {embedding.name!r} shares no id with screen {screen.name!r}: the embedding has {some(embedding.ids, 4)}, "
            f"the screen {some(screen.pert_ids, 4)}. Translate one of them to the other's identifiers."
        )
    for (context, fold), (train, _) in sides.items():
        known = len(embedding.coverage(train).covered)
        if known < MIN_TRAIN:
            raise InputError(
                f"embedding {embedding.name!r} covers {known} of {len(train)} training perturbations in context {context!r}, "
                f"fold {fold}; a probe needs at least {MIN_TRAIN}. Leave it out, or leave out the context (--contexts)."
            )
    return f"covers {coverage}"
