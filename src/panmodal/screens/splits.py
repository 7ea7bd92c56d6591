"""Splits: which perturbations are held out together, and the audit that nothing leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from panmodal._digest import digest_json
from panmodal._files import atomic_path, read_yaml, write_text
from panmodal._tables import read_frame, text_ids, unique_ids
from panmodal.errors import InputError, LeakError, some
from panmodal.perturbation_ids import canonical, parts

UNSEEN = ("perturbation", "part")
"""What a split promises to be unseen: the perturbation id, or each part of a combination as well."""


@dataclass(frozen=True)
class Split:
    """Folds over perturbation ids, the same for an id in every context.

    Parameters
    ----------
    folds
        Perturbation id -> fold (0, 1, ...); ids are brought to their canonical form.
    name
        Name used in tables; two splits with the same folds have the same digest whatever their names.
    unseen
        ``perturbation``: no test id is trained on. ``part``: moreover no part of a test combination is.
    seed
        Seed that made the folds; None for folds read from elsewhere.

    Raises
    ------
    InputError
        Fewer than two folds, a fold that is no whole number, an id (``A+B`` is ``B+A``) in there twice, an unknown promise.
    """

    folds: Mapping[str, int]
    name: str = "unseen-perturbation"
    unseen: str = "perturbation"
    seed: int | None = None

    def __post_init__(self) -> None:
        where = f"split {self.name!r}"
        if self.unseen not in UNSEEN:
            raise InputError(f"{where}: unseen is {self.unseen!r}; it must be one of {', '.join(UNSEEN)}.")
        ids = [canonical(i) for i in self.folds]
        unique_ids(ids, "pert_id", where, "An id belongs to one fold.")
        folds = {i: _whole(f, i, where) for i, f in zip(ids, self.folds.values(), strict=True)}
        object.__setattr__(self, "folds", folds)
        if len(self.numbers) < 2:
            raise InputError(f"{where}: needs at least two folds, has {self.numbers}.")

    @property
    def numbers(self) -> list[int]:
        """The fold numbers, sorted."""
        return sorted(set(self.folds.values()))

    @property
    def digest(self) -> str:
        """Digest of the folds and of the promise."""
        return digest_json({"folds": dict(self.folds), "unseen": self.unseen})

    def sides(self, ids: Sequence[str], fold: int) -> tuple[list[str], list[str]]:
        """Return (training ids, test ids) of a fold, in the order of ``ids``."""
        train = [i for i in ids if self.folds[i] != fold]
        test = [i for i in ids if self.folds[i] == fold]
        return train, test

    def write(self, path: str | Path) -> None:
        """Write ``pert_id,fold`` as csv, and name, promise, seed and digest in a side-car ``.yaml``."""
        path = Path(path)
        if path.suffix != ".csv":
            raise InputError(f"{path}: a split is written as .csv.")
        rows = "".join(f"{_quoted(i)},{f}\n" for i, f in sorted(self.folds.items()))
        with atomic_path(path) as partial:
            partial.write_text("pert_id,fold\n" + rows, encoding="utf-8")
        record = {"name": self.name, "unseen": self.unseen, "seed": self.seed, "digest": self.digest}
        write_text(_sidecar(path), yaml.safe_dump(record, sort_keys=False))


def _whole(value: object, pert_id: str, where: str) -> int:
    """Return a fold as a whole number; refuse anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
        whole = int(number)
    except (TypeError, ValueError, OverflowError):
        whole, number = -1, -1.0
    if whole != number or whole < 0:
        raise InputError(f"{where}: fold of {pert_id!r} is {value!r}; it must be 0, 1, 2, ...")
    return whole


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n\r') else text


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".csv") + ".split.yaml")


def make_split(
    ids: Iterable[str],
    *,
    n_folds: int = 5,
    seed: int = 42,
    unseen: str = "perturbation",
    groups: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Split:
    """Deal perturbation ids into folds of equal size, at random but independently of their order.

    Parameters
    ----------
    ids
        Perturbation ids.
    n_folds
        Number of folds.
    seed
        Seed of the shuffle.
    unseen
        ``part`` keeps combinations that share a part together (connected components).
    groups
        id -> group; ids of a group stay together (gene families, doses of one compound).
    name
        Name of the split; made from the options unless given.

    Raises
    ------
    InputError
        Fewer ids (or groups) than folds, or one group holds so much that the folds cannot be balanced.
    """
    ordered = sorted({canonical(i) for i in ids})
    # Ids that differ in case only are the same perturbation to the audit, so they stay together.
    label = {i: i.casefold() for i in ordered} if groups is None else _given_groups(ordered, groups)
    if unseen == "part":
        label = _connected(ordered, label)
    members: dict[str, list[str]] = {}
    for i in ordered:
        members.setdefault(label[i], []).append(i)
    if n_folds < 2 or len(members) < n_folds:
        what = "perturbations" if len(members) == len(ordered) else "independent groups of perturbations"
        raise InputError(f"{len(members)} {what} cannot be dealt into {n_folds} folds; give fewer folds (at least 2).")
    largest = max(members.values(), key=len)
    if len(largest) > len(ordered) / 2:
        raise InputError(
            f"{len(largest)} of {len(ordered)} perturbations hang together ({some(largest, 3)}) and would fill more "
            "than half of the folds. Use a split with a weaker promise (unseen: perturbation) or other groups."
        )
    rng = np.random.default_rng(seed)
    names = sorted(members)
    shuffled = [names[k] for k in rng.permutation(len(names))]
    # Large groups first, each into the fold that is smallest so far; single ids are dealt in shuffled order.
    shuffled.sort(key=lambda g: -len(members[g]))
    sizes = [0] * n_folds
    folds: dict[str, int] = {}
    for group in shuffled:
        fold = int(np.argmin(sizes))
        sizes[fold] += len(members[group])
        folds.update(dict.fromkeys(members[group], fold))
    default = "unseen-perturbation" if unseen == "perturbation" else "unseen-part"
    if groups is not None:
        default += "-grouped"
    return Split(folds, name=name or default, unseen=unseen, seed=seed)


def _given_groups(ids: Sequence[str], groups: Mapping[str, str]) -> dict[str, str]:
    known = {canonical(i): str(g) for i, g in groups.items()}
    missing = [i for i in ids if i not in known]
    if missing:
        raise InputError(f"groups: no group for perturbation(s) {some(missing)}.")
    return {i: f"group:{known[i]}" for i in ids}


def _connected(ids: Sequence[str], label: Mapping[str, str]) -> dict[str, str]:
    """Join ids that share a part or a group, by connected components."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes: dict[tuple[str, str], int] = {}
    edges: list[tuple[int, int]] = []
    for k, i in enumerate(ids):
        for key in [("part", p.casefold()) for p in parts(i)] + [("label", label[i])]:
            edges.append((k, len(ids) + nodes.setdefault(key, len(nodes))))
    size = len(ids) + len(nodes)
    a, b = np.array(edges).T
    _, component = connected_components(coo_array((np.ones(len(edges)), (a, b)), shape=(size, size)), directed=False)
    return {i: f"component:{component[k]}" for k, i in enumerate(ids)}


def read_groups(path: str | Path) -> dict[str, str]:
    """Read a table with columns ``pert_id`` and ``group``."""
    frame = read_frame(path, {"pert_id", "group"})
    missing = [c for c in ("pert_id", "group") if c not in frame]
    if missing:
        raise InputError(f"{path}: no column {some(missing)}; a table of groups has pert_id and group.")
    ids = [canonical(i) for i in text_ids(frame["pert_id"].tolist(), "pert_id", str(path))]
    unique_ids(ids, "pert_id", str(path), "An id belongs to one group.")
    return dict(zip(ids, text_ids(frame["group"].tolist(), "the group", str(path)), strict=True))


def read_split(path: str | Path, *, unseen: str | None = None) -> Split:
    """Read a csv with columns ``pert_id`` and ``fold`` (and its side-car, whose digest must then agree).

    Raises
    ------
    InputError
        A column is missing, an id repeats, a fold is not a whole number, or the digest of the side-car differs.
    """
    path = Path(path)
    frame = read_frame(path, {"pert_id"})
    missing = [c for c in ("pert_id", "fold") if c not in frame]
    if missing:
        raise InputError(f"{path}: no column {some(missing)}; a split file has pert_id and fold.")
    ids = [canonical(i) for i in text_ids(frame["pert_id"].tolist(), "pert_id", str(path))]
    unique_ids(ids, "pert_id", str(path), "An id belongs to one fold.")
    folds = {i: _whole(value, i, str(path)) for i, value in zip(ids, frame["fold"].tolist(), strict=True)}
    side = _sidecar(path)
    record = read_yaml(side, "name, unseen, seed and digest") if side.exists() else {}
    promise = str(record.get("unseen", "perturbation"))
    seed = record.get("seed")
    name = str(record.get("name", path.name.removesuffix(".csv")))
    try:
        split = Split(folds, name=name, unseen=promise, seed=seed if isinstance(seed, int) else None)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    expected = record.get("digest")
    if expected is not None and expected != split.digest:
        raise InputError(
            f"{path}: the folds were changed since they were saved (digest {split.digest}, {side.name} says {expected}). "
            "Restore the file, or remove the side-car if the change was meant."
        )
    return replace(split, unseen=unseen or promise)


def audit(split: Split, ids: Iterable[str], where: str) -> list[str]:
    """Check, before anything is fitted, that a split keeps its promise on these ids; return notes.

    Raises
    ------
    LeakError
        A part of a test combination is trained on although the split promises that it is not.
    InputError
        An id of the screen has no fold.
    """
    ids = list(ids)
    missing = [i for i in ids if i not in split.folds]
    if missing:
        raise InputError(
            f"{where}: split {split.name!r} has no fold for {some(missing)}. Add them to the split file, or remove them "
            "from the screen."
        )
    notes = []
    unused = set(split.folds) - set(ids)
    if unused:
        notes.append(
            f"split {split.name!r}: {len(unused)} of its ids are not in the screen ({some(sorted(unused), 3)})"
        )
    alike: dict[str, list[str]] = {}
    for i in ids:
        alike.setdefault(i.casefold(), []).append(i)
    for spellings in alike.values():
        if len({split.folds[i] for i in spellings}) > 1:
            raise LeakError(
                f"{where}: {some(spellings)} differ in upper and lower case only and are in different folds, so that one "
                "would be trained on while the other is tested. Spell them alike or put them into one fold."
            )
    if split.unseen == "part":
        seen: dict[str, set[int]] = {}
        for i in ids:
            for part in parts(i):
                seen.setdefault(part.casefold(), set()).add(split.folds[i])
        leaks = sorted({part for i in ids for part in parts(i) if len(seen[part.casefold()]) > 1})
        if leaks:
            raise LeakError(
                f"{where}: split {split.name!r} promises that no part of a test combination is trained on, but "
                f"{some(leaks)} are on both sides. Make the split with unseen='part', or promise less."
            )
    return notes
