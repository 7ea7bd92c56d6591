"""How a perturbation is named: single ids, and combinations written ``A+B``."""

from __future__ import annotations

import re

CONTROL_NAMES = frozenset(
    {"control", "ctrl", "ctl", "non-targeting", "non_targeting", "nontargeting", "nt", "ntc", "dmso", "dmso_tf",
     "vehicle", "untreated", "unperturbed", "negctrl", "neg_ctrl", "safe-targeting", "mock"}
)  # fmt: skip
"""Names (lower case) under which unperturbed cells are usually filed."""

_GUIDE = re.compile(
    r"^(?:sg)?(non-?_?targeting|nontarget|neg(?:ative)?-?_?(?:ctrl|control)|ntc?|safe-?_?targeting|ctrl|control|dmso(?:_tf)?|vehicle)"
    r"(?:[-_ .]?(?:guide|sgrna|sg|g))?[-_ .]?\d+$"
)  # fmt: skip

_OPEN, _CLOSE = "([{", ")]}"


def _balanced(text: str) -> bool:
    depth = 0
    for letter in text:
        if letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
            if depth < 0:
                return False
    return depth == 0


def parts(pert_id: str) -> tuple[str, ...]:
    """Split an id into the perturbations that it combines, sorted.

    ``A+B`` is a combination of ``A`` and ``B``. A ``+`` that belongs to a name is left alone: a part may not be empty
    (``Ca2+``) and brackets must close within it (``(+)-JQ1``, ``[Na+].[Cl-]``). Control names are no part:
    ``A+ctrl``, the way GEARS writes single perturbations, is ``A``.
    """
    pieces = [piece.strip() for piece in pert_id.split("+")]
    if len(pieces) == 1 or not all(pieces) or not all(_balanced(piece) for piece in pieces):
        return (pert_id.strip(),)
    real = sorted(piece for piece in pieces if piece.lower() not in CONTROL_NAMES)
    return tuple(real) if real else ("ctrl",)


def canonical(pert_id: str) -> str:
    """Write an id in the one form used everywhere: parts sorted and joined by ``+``."""
    return "+".join(parts(pert_id))


def control_family(label: str) -> str | None:
    """Tell the kind of control that a label of cells names, or None: ``non-targeting_0012`` is ``non-targeting``.

    Labels of one family are guides or wells of the same control; labels of two families (DMSO and untreated cells) are not.
    """
    text = label.strip().lower()
    if text in CONTROL_NAMES:
        return text
    guide = _GUIDE.match(text)
    return guide.group(1) if guide else None


def is_control(pert_id: str) -> bool:
    """Tell whether an id names unperturbed cells."""
    return pert_id.strip().lower() in CONTROL_NAMES
