"""The compact protocol of Apache Thrift, in which Parquet files describe themselves: read without trust, into plain values."""

from __future__ import annotations

from typing import Any

DEEPEST = 12
LONGEST_LIST = 100_000
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12


class Compact:
    """Structs as dictionaries by the numbers of their fields; lists, whole numbers, flags and bytes.

    Only what is there is read: nothing is allocated by a length that a file says. See thrift-compact-protocol.md of Apache Thrift.

    Raises
    ------
    ValueError
        Cut off, too deep, a field twice, or of a kind that Parquet does not use.
    """

    def __init__(self, raw: bytes, at: int = 0, end: int | None = None) -> None:
        self.raw, self.at, self.end = raw, at, len(raw) if end is None else end

    def _byte(self) -> int:
        if self.at >= self.end:
            raise ValueError("cut off")
        self.at += 1
        return self.raw[self.at - 1]

    def varint(self) -> int:
        """Read a whole number that is not negative, of 64 bits at most."""
        value = 0
        for shift in range(0, 70, 7):
            part = self._byte()
            value |= (part & 0x7F) << shift
            if part < 0x80:
                return value
        raise ValueError("a number is too long")

    def _signed(self) -> int:
        n = self.varint()
        return n >> 1 ^ -(n & 1)

    def _bytes(self, n: int) -> bytes:
        if n > self.end - self.at:
            raise ValueError("cut off")
        self.at += n
        return self.raw[self.at - n : self.at]

    def _value(self, kind: int, depth: int) -> Any:
        if kind == BYTE:
            return self._byte()
        if kind in (I16, I32, I64):
            return self._signed()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self.varint())
        if kind == LIST:
            return self._list(depth + 1)
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"holds a value of kind {kind}")

    def _list(self, depth: int) -> list[Any]:
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        head = self._byte()
        n = head >> 4 if head >> 4 < 15 else self.varint()
        if n > LONGEST_LIST:
            raise ValueError(f"a list of {n}")
        if head & 0xF in (TRUE, FALSE):
            return [self._byte() == TRUE for _ in range(n)]
        return [self._value(head & 0xF, depth) for _ in range(n)]

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Read a struct to its end."""
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            if number in fields:
                raise ValueError(f"field {number} twice")
            kind = head & 0xF
            fields[number] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth)
        return fields
