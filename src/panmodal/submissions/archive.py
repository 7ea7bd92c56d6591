"""The zip file of a bundle: written in one way only, and read only if it is written in that way."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from panmodal.submissions.findings import refuse
from panmodal.submissions.limits import LIMITS, MIB, Limits

# APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central header) and 4.3.16 (end of the central directory).
END = struct.Struct("<4s4H2LH")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
DEFLATE = 8
MADE_BY = 3 << 8 | 20
"""Unix, version 2.0."""
MODE = (stat.S_IFREG | 0o644) << 16
DATE = (1980, 1, 1, 0, 0, 0)
DOS_DATE = 1 << 5 | 1
PATTERNS = (
    r"manifest\.json", r"trials\.json", r"cards\.json", r"environments\.json", r"(scores|perturbations|ceilings|resampled)\.parquet",
    r"runs/[0-9a-f]{32}\.json", r"splits/[0-9a-f]{32}\.csv", r"predictions/[0-9a-f]{32}\.f32",
)  # fmt: skip
NAMES = re.compile("|".join(f"(?:{p})" for p in PATTERNS))
ARCHIVES = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".tgz", ".jar", ".whl")
CHUNK = 2**18


@dataclass(frozen=True)
class Member:
    """One file in the archive, by its central directory."""

    name: str
    checksum: int
    packed: int
    size: int
    header: int

    @property
    def start(self) -> int:
        """First byte of the packed data."""
        return self.header + LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        """Byte after the packed data."""
        return self.start + self.packed


def write_archive(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files in the given order: the same files are the same bytes (with the same version of zlib)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files:
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr, entry.compress_type = 3, MODE, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=6)


class Archive:
    """A bundle's zip file, read member by member.

    The central directory is read with bounds on everything, each member must lie exactly where and be called exactly as
    it says, and nothing else may be in the file; other zip files are refused however harmless. Nothing is written to disk.

    Raises
    ------
    Refused
        Codes V001 to V012.
    """

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        self.path, self.limits = path, limits
        with self._open() as stream:
            self.members = {m.name: m for m in _directory(stream, limits)}

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as stream:
                yield stream
        except OSError as error:
            refuse("V001", f"cannot be read ({error.strerror or error})", self.path.name)

    def read(self, name: str) -> bytes:
        """Unpack a member, never beyond the size that the directory says."""
        member = self.members[name]
        unpacker, found, out, left, packed = zlib.decompressobj(-zlib.MAX_WBITS), 0, [], member.packed, b""
        with self._open() as stream:
            stream.seek(member.start)
            while not unpacker.eof:
                if not packed and left:
                    packed = stream.read(min(CHUNK, left))
                    left = left - len(packed) if packed else 0
                try:
                    part = unpacker.decompress(packed, CHUNK)
                except zlib.error as error:
                    refuse("V011", f"cannot be unpacked ({error})", name)
                packed, found = unpacker.unconsumed_tail, found + len(part)
                if found > member.size:
                    refuse("V011", f"unpacks to more than the {member.size} bytes that it says", name)
                out.append(part)
                if not (part or packed or left):
                    break
        content = b"".join(out)
        if not unpacker.eof or unpacker.unused_data or packed or left or len(content) != member.size:
            refuse("V011", f"unpacks to {len(content)} bytes and says {member.size}, or holds more behind them", name)
        if zlib.crc32(content) != member.checksum:
            refuse("V011", "has another checksum than it says", name)
        return content


def _directory(stream: BinaryIO, limits: Limits) -> list[Member]:
    size = stream.seek(0, 2)
    if size > limits.file:
        refuse("V002", f"{size} bytes; at most {limits.file} are read", "file")
    if size < END.size:
        refuse("V001", "too short for a zip file", "file")
    stream.seek(size - END.size)
    mark, disk, first_disk, here, count, length, start, comment = END.unpack(stream.read(END.size))
    if mark != b"PK\5\6" or comment:
        refuse("V001", "does not end as a zip file without a comment does (cut off, or something was appended)", "file")
    if disk or first_disk or here != count or count == 0xFFFF or start == 0xFFFFFFFF:
        refuse("V001", "in several parts, or zip64", "file")
    if count > limits.members:
        refuse("V002", f"{count} members; at most {limits.members} are read", "file")
    if start + length != size - END.size or length > count * (CENTRAL.size + 3 * limits.label):
        refuse("V001", "its central directory does not lie at its end, or is longer than its members need", "file")
    stream.seek(start)
    members = list(_central(stream.read(length), count, limits))
    _check_names([m.name for m in members])
    if sum(m.size for m in members) > limits.total:
        refuse("V002", f"unpacks to more than {limits.total} bytes", "file")
    _check_layout(stream, members, start)
    return members


def _central(directory: bytes, count: int, limits: Limits) -> Iterator[Member]:
    at = 0
    for number in range(count):
        where = f"member {number}"
        if at + CENTRAL.size > len(directory):
            refuse("V001", "the central directory is cut off", where)
        (mark, made, needed, flags, method, time, date, checksum, packed, size, n_name, n_extra, n_comment, disk, inner, outer,
         header) = CENTRAL.unpack_from(directory, at)  # fmt: skip
        at += CENTRAL.size
        raw = directory[at : at + n_name]
        at += n_name + n_extra + n_comment
        if mark != b"PK\1\2" or at > len(directory):
            refuse("V001", "the central directory is damaged", where)
        name = _safe_name(raw, where)
        if flags & 0x41 or method != DEFLATE:
            refuse("V004", "encrypted" if flags & 0x41 else f"packed by method {method}", name)
        if not stat.S_ISREG(outer >> 16) or outer & 0xFFFF:
            kind = "a symbolic link" if stat.S_ISLNK(outer >> 16) else "no plain file"
            refuse("V005", f"{kind} (attributes {outer:#x})", name)
        if (made, needed, flags, time, date, disk, inner, outer, n_extra, n_comment) != (
            MADE_BY, 20, 0, 0, DOS_DATE, 0, 0, MODE, 0, 0,
        ):  # fmt: skip
            refuse("V012", "its entry is not as panmodal bundle writes it", name)
        if size > (limits.member if name.endswith((".parquet", ".f32")) else limits.json):
            refuse("V002", f"unpacks to {size} bytes, more than are read", name)
        if size > MIB and size > limits.ratio * packed:
            refuse("V003", f"{packed} bytes unpack to {size}; at most {limits.ratio:g} times as many do", name)
        yield Member(name, checksum, packed, size, header)
    if at != len(directory):
        refuse("V001", "the central directory has more than its members", "file")


def _safe_name(raw: bytes, where: str) -> str:
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        refuse("V006", f"the name {raw[:80]!r} has other characters than a bundle's names do", where)
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\\" in name or ":" in name or not name.isprintable():
        refuse("V006", f"the name {name[:80]!r} could lead out of a folder", where)
    if name.endswith("/"):
        refuse("V005", f"{name[:80]!r} is a folder", where)
    return name


def _check_names(names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            refuse("V007", f"also there as {seen[name.casefold()]!r}", name[:80])
        seen[name.casefold()] = name
    for name in names:
        if name.casefold().endswith(ARCHIVES):
            refuse("V008", "an archive", name[:80])
        if not NAMES.fullmatch(name):
            refuse("V009", "not a member of a bundle", name[:80])
    if names != sorted(names):
        refuse("V012", "members are not sorted by name", "file")


def _check_layout(stream: BinaryIO, members: list[Member], end: int) -> None:
    """Members must follow each other from the first byte to the central directory, under the names it says."""
    at = 0
    for member in members:
        if member.header != at:
            refuse("V010", f"begins at byte {member.header}, not where the one before ends ({at})", member.name)
        stream.seek(at)
        expected = LOCAL.pack(
            b"PK\3\4", 20, 0, DEFLATE, 0, DOS_DATE, member.checksum, member.packed, member.size, len(member.name), 0
        )
        if stream.read(len(expected) + len(member.name)) != expected + member.name.encode():
            refuse("V010", "what stands before its data is not what the central directory says", member.name)
        at = member.end
    if at != end:
        refuse("V010", f"{end - at} byte(s) between the last member and the central directory", "file")
