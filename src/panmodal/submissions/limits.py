"""How much of a stranger's file is read at most."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a bundle may hold at most; more is refused before it is read.

    Attributes
    ----------
    file, total, member
        Bytes of the file, of all members unpacked, and of one.
    members
        Number of members.
    ratio
        Unpacked to packed bytes of a member larger than a mebibyte.
    json, depth, number
        Bytes of a JSON or csv member, levels that its values are nested, digits of a whole number.
    rows, columns, cells
        Of a table; cells are rows times columns.
    label, text
        Characters of a name or id, and of any other text.
    findings
        Findings of one code that are told one by one.
    """

    file: int = 2048 * MIB
    total: int = 4096 * MIB
    member: int = 1024 * MIB
    members: int = 50_000
    ratio: float = 200.0
    json: int = 64 * MIB
    depth: int = 24
    number: int = 18
    rows: int = 20_000_000
    columns: int = 400
    cells: int = 100_000_000
    label: int = 300
    text: int = 10_000
    findings: int = 20


LIMITS = Limits()
"""Unless others are given."""
