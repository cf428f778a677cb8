"""The records of a SQLite file, read page by page and not through its trees (https://sqlite.org/fileformat2.html).

A tree with one broken page cuts off all that hangs below it; here each page speaks for itself, so a broken page
costs what stood on it and nothing else. What is yielded is not trustworthy: a record may be old, come twice, or
have a changed byte in it. Who reads has to know a whole one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Value = str | bytes | int | float | None
Record = tuple[Value, ...]

MAGIC = b"SQLite format 3\0"
PAGE_SIZE = 4096
"""Where the header does not say."""
LARGEST = 2**30
LOG_HEADER, FRAME_HEADER, FILE_HEADER = 32, 24, 100
_INNER_INDEX, _LEAF_INDEX, _LEAF_TABLE = 2, 10, 13
_UNREADABLE = (IndexError, ValueError, struct.error, OverflowError)
"""What reading a page raises that is not one."""


def log_of(path: Path) -> Path:
    """The write-ahead log of a SQLite file."""
    return path.with_name(f"{path.name}-wal")


def index_of(path: Path) -> Path:
    """The shared memory of those who have the file open; it tells how long the log was."""
    return path.with_name(f"{path.name}-shm")


def stated_pages(head: bytes) -> tuple[int, int]:
    """(how many pages the file has by its own first page, bytes of each); (0, 1) where that does not say (it was written
    by an old version, or is cut itself)."""
    if len(head) < FILE_HEADER or head[24:28] != head[92:96]:
        return 0, 1
    size = int.from_bytes(head[16:18], "big")
    return int.from_bytes(head[28:32], "big"), 2**16 if size == 1 else size


def records(path: Path) -> Iterator[Record]:
    """Each record on each page of the file and of its write-ahead log, in no order, some more than once.

    Columns are in the order of the disk: in a table WITHOUT ROWID those of the primary key come first.
    """
    with _Pages(path) as pages:
        for place in pages.places():
            yield from _records(pages, place)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page lies: number 1 is the file's first."""

    log: bool
    offset: int
    number: int


class _Pages:
    """The pages of a file and of its log, read one at a time: the file may be larger than the memory."""

    def __init__(self, path: Path) -> None:
        self._paths = (path, log_of(path))
        self._files: list[int | None] = []
        self._logged: dict[int, int] = {}

    def __enter__(self) -> _Pages:
        self._files = [os.open(p, os.O_RDONLY) if p.exists() else None for p in self._paths]
        head = self._read(log=False, offset=0, size=FILE_HEADER)
        self.size, reserved = PAGE_SIZE, 0
        if head.startswith(MAGIC) and len(head) == FILE_HEADER:
            stated = int.from_bytes(head[16:18], "big")
            stated = 2**16 if stated == 1 else stated
            if stated >= 512 and not stated & (stated - 1):
                self.size, reserved = stated, head[20]
        self.usable = self.size - reserved
        self._logged = {number: offset for offset, number in self._frames()}
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            if file is not None:
                os.close(file)

    def _read(self, *, log: bool, offset: int, size: int) -> bytes:
        file = self._files[log]
        if file is None:
            return b""
        try:
            return os.pread(file, size, offset)
        except OSError:
            # A sector that cannot be read costs what stood there.
            return b""

    def _ends(self, *, log: bool) -> int:
        file = self._files[log]
        return 0 if file is None else os.fstat(file).st_size

    def places(self) -> Iterator[_Place]:
        """All pages: the file's, then the log's."""
        for offset in range(0, self._ends(log=False), self.size):
            yield _Place(False, offset, offset // self.size + 1)
        for offset, number in self._frames():
            yield _Place(True, offset, number)

    def _frames(self) -> Iterator[tuple[int, int]]:
        """(offset, page number) of each page in the log."""
        for offset in range(LOG_HEADER, self._ends(log=True) - FRAME_HEADER, FRAME_HEADER + self.size):
            head = self._read(log=True, offset=offset, size=4)
            yield offset + FRAME_HEADER, int.from_bytes(head, "big")

    def page(self, place: _Place) -> bytes:
        # What a cut took away is zeros: what stands before it is still to be had.
        return self._read(log=place.log, offset=place.offset, size=self.size).ljust(self.size, b"\0")

    def numbered(self, number: int) -> Iterator[bytes]:
        """The versions of a page: the log's, then the file's."""
        if number in self._logged:
            yield self.page(_Place(True, self._logged[number], number))
        yield self.page(_Place(False, (number - 1) * self.size, number))


def _records(pages: _Pages, place: _Place) -> Iterator[Record]:
    page = pages.page(place)
    start = FILE_HEADER if place.number == 1 else 0
    kind = page[start]
    if kind not in (_INNER_INDEX, _LEAF_INDEX, _LEAF_TABLE):
        return
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    pointers = start + (12 if kind == _INNER_INDEX else 8)
    for i in range(min(count, (pages.size - pointers) // 2)):
        try:
            at = int.from_bytes(page[pointers + 2 * i : pointers + 2 * i + 2], "big")
            yield from _cell(pages, page, at + (4 if kind == _INNER_INDEX else 0), table=kind == _LEAF_TABLE)
        except _UNREADABLE:
            continue


def _cell(pages: _Pages, page: bytes, at: int, *, table: bool) -> Iterator[Record]:
    """The record of a cell; where it goes on over other pages, one for each version of the next."""
    size, at = _varint(page, at)
    if table:
        _, at = _varint(page, at)
    if size > LARGEST:
        return
    usable = pages.usable
    most = usable - 35 if table else (usable - 12) * 64 // 255 - 23
    if size <= most:
        yield _record(page[at : at + size])
        return
    least = (usable - 12) * 32 // 255 - 23
    here = least + (size - least) % (usable - 4)
    here = least if here > most else here
    following = int.from_bytes(page[at + here : at + here + 4], "big")
    for rest in _chains(pages, following, size - here):
        yield _record(page[at : at + here] + rest)


def _chains(pages: _Pages, number: int, size: int) -> Iterator[bytes]:
    """The bytes on a chain of pages: as the log has them, and as the file has them."""
    for choice in (0, -1):
        parts, left, current = [], size, number
        while left > 0 and current:
            page = list(pages.numbered(current))[choice]
            current = int.from_bytes(page[:4], "big")
            parts.append(page[4 : min(pages.usable, 4 + left)])
            left -= len(parts[-1])
        if left == 0:
            yield b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        byte = data[at + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    return value << 8 | data[at + 8], at + 9


def _record(payload: bytes) -> Record:
    """The values of a record. Raises one of _UNREADABLE when it is none."""
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values = []
    for kind in kinds:
        value, at = _value(kind, payload, at)
        values.append(value)
    if at != len(payload):
        raise ValueError("a record that does not fill its cell")
    return tuple(values)


_WIDTHS = (0, 1, 2, 3, 4, 6, 8)


def _value(kind: int, data: bytes, at: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    width = _WIDTHS[kind] if kind < 7 else 8 if kind == 7 else (kind - 12) // 2
    if kind in (10, 11) or at + width > len(data):
        raise ValueError("a value that goes over the end")
    part, at = data[at : at + width], at + width
    if kind < 7:
        return int.from_bytes(part, "big", signed=True), at
    if kind == 7:
        number: float = struct.unpack(">d", part)[0]
        return number, at
    return (part.decode("utf-8") if kind % 2 else part), at


# ---- the write-ahead log


@dataclass(frozen=True, slots=True)
class Log:
    """A write-ahead log: pages that are in it up to its last whole commit, and pages that have to be."""

    whole: int
    wanted: int
    numbers: frozenset[int]
    """Which pages of the file those are that are whole."""


def read_log(path: Path) -> Log:
    """How much of the file's log is whole. More is wanted than is whole where a commit was lost: the shared
    memory tells of a longer log, or what follows the first broken page holds a commit of the same log."""
    log, index = log_of(path), index_of(path)
    data = log.read_bytes() if log.exists() else b""
    whole, later, numbers = _commits(data)
    return Log(whole, max(whole, later, _noted(index)), frozenset(numbers[:whole]))


def _noted(index: Path) -> int:
    """Pages in the log when the last commit was made, as the shared memory of a killed process tells."""
    head = index.read_bytes()[:48] if index.exists() else b""
    if len(head) < 48 or not head[12]:
        return 0
    return int(struct.unpack_from("=I", head, 16)[0])


def _commits(data: bytes) -> tuple[int, int, list[int]]:
    """(pages up to the last commit whose checksums hold, pages up to the last that claims to be one, which pages of the
    file they are)."""
    numbers: list[int] = []
    if len(data) <= LOG_HEADER + FRAME_HEADER:
        return 0, 0, numbers
    order = ">" if data[3] & 1 else "<"
    size = int.from_bytes(data[8:12], "big")
    if not (512 <= size <= 2**16):
        size = PAGE_SIZE
    salt = data[16:24]
    sums = _checksum(data[:24], order, (0, 0))
    known = good = sums == struct.unpack(">II", data[24:32])
    whole = later = 0
    frames = range(LOG_HEADER, len(data) - FRAME_HEADER - size + 1, FRAME_HEADER + size)
    for number, at in enumerate(frames, 1):
        head, body = data[at : at + FRAME_HEADER], data[at + FRAME_HEADER : at + FRAME_HEADER + size]
        if known and head[8:16] != salt:
            break  # What follows is of the log before this one.
        if good:
            sums = _checksum(body, order, _checksum(head[:8], order, sums))
            good = sums == struct.unpack(">II", head[16:24])
        numbers.append(int.from_bytes(head[:4], "big"))
        if int.from_bytes(head[4:8], "big"):
            later = number
            whole = number if good else whole
    return whole, later, numbers


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    a, b = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for x, y in zip(words[::2], words[1::2], strict=True):
        a = (a + x + b) & 0xFFFFFFFF
        b = (b + y + a) & 0xFFFFFFFF
    return a, b
