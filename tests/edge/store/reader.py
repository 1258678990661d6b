"""Reads a store from docs/store-format.md alone: nothing of edge.store is imported. Slow, plain, complete.

When this reader and the store disagree, either the page or the code is wrong, and people's data is at stake.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PAGE = Path(__file__).parents[3] / "docs" / "store-format.md"
DICTIONARY = re.search(r"^plasma\S+$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[0].encode()  # type: ignore[index]
TABLES = {
    "keyring": 1, "head": 2, "tail": 3, "segments": 4, "outbox": 5, "blobs": 6,
    "aggregates": 7, "journal": 8, "archive": 9,
}  # fmt: skip
HEAD_ROW = 2**62


def hkdf(key: bytes, salt: bytes, purpose: str, size: int = 32) -> bytes:
    return HKDF(SHA256(), size, salt, f"hometwin/store/1/{purpose}".encode()).derive(key)


def read_store(path: Path, outer: bytes, hub_id: str) -> dict[str, Any]:
    """Samples (as lists, in store order), messages, blobs and the head's fields."""
    db = sqlite3.connect(path)
    [(store_id,)] = db.execute("SELECT store_id FROM identity")

    def opened(key: bytes, table: str, place: bytes, record: bytes) -> bytes:
        assert record[0] >> 4 == 1
        hub = hub_id.encode()
        data = (
            record[:2]
            + b"hometwin/store\0"
            + store_id
            + bytes([len(hub)])
            + hub
            + bytes([TABLES[table]])
            + place
        )
        if record[0] & 15 == 1:
            return AESGCM(key).decrypt(record[2:14], record[14:], data)
        key = hashlib.sha256(b"hometwin chacha20" + key).digest()
        return ChaCha20Poly1305(key).decrypt(record[2:14], record[14:], data)

    def row(number: int) -> bytes:
        return struct.pack(">Q", number)

    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    slots = [(0, hkdf(outer, b"", "check", 16))]  # schema 1 has one key and no table for it
    if "slots" in tables:
        slots = db.execute("SELECT number, check_value FROM slots WHERE kind = 1").fetchall()
    [ours] = [number for number, check in slots if check == hkdf(outer, b"", "check", 16)]
    ring = {
        n % 256: opened(hkdf(outer, store_id, "wrap"), "keyring", row(n), sealed)
        for n, sealed in db.execute("SELECT number, sealed FROM keyring")
        if n // 256 == ours
    }

    def plain(table: str, place: bytes, record: bytes) -> bytes:
        return opened(hkdf(ring[record[1]], store_id, "seal"), table, place, record)

    found: dict[str, Any] = {"samples": [], "messages": {}, "blobs": {}, "journal": [], "aggregates": []}
    found["archive"] = []
    contents: list[tuple[int, bytes]] = []
    for first, sealed in db.execute("SELECT number, sealed FROM segments ORDER BY number"):
        content = plain("segments", row(first), sealed)
        contents.append((first, content))
        found["samples"] += segment(content if content[0] == 1 else bytes([content[0] - 1]) + content[9:])
    for n, sealed in db.execute("SELECT number, sealed FROM tail ORDER BY number"):
        if n == HEAD_ROW:
            found["head"] = msgspec.msgpack.decode(plain("head", b"head", sealed))
        else:
            sample = msgspec.msgpack.decode(plain("tail", row(n), sealed))
            found["samples"].append([*sample, 0][:10])
    for i, (_, content) in enumerate(contents):
        for place, distance in ((1, 1), (5, 16)):
            if content[0] > 1 and i >= distance and contents[i - distance][0] >= found["head"][8]:
                link = hashlib.blake2b(contents[i - distance][1], digest_size=4).digest()
                assert content[place : place + 4] == link
    for n, sealed in db.execute("SELECT number, sealed FROM outbox"):
        found["messages"][n] = plain("outbox", row(n), sealed)
    for name_hash, sealed in db.execute("SELECT name_hash, sealed FROM blobs"):
        content = plain("blobs", name_hash, sealed)
        name = content[1 : 1 + content[0]]
        names = hkdf(ring[min(ring)], store_id, "names")
        assert hashlib.blake2b(name, key=names, digest_size=16).digest() == name_hash
        found["blobs"][name.decode()] = content[1 + content[0] :]
    if "journal" in tables:
        previous = ""
        for n, sealed in db.execute("SELECT number, sealed FROM journal ORDER BY number"):
            line = plain("journal", row(n), sealed)
            assert json.loads(line)["previous"] == previous
            assert json.loads(line)["number"] == n
            previous = hashlib.blake2b(line, digest_size=32).hexdigest()
            found["journal"].append(line.decode())
        assert found["head"][10].hex() == previous
        for n, sealed in db.execute("SELECT number, sealed FROM aggregates ORDER BY number"):
            found["aggregates"] += aggregates(plain("aggregates", row(n), sealed))
        for n, sealed in db.execute("SELECT number, sealed FROM archive ORDER BY number"):
            found["archive"].append(msgspec.msgpack.decode(plain("archive", row(n), sealed)))
    db.close()
    return found


def aggregates(data: bytes) -> list[list[Any]]:
    """Source, kind, width, greatest number, and rows of start, size, doubtful, mean, low, high, sd."""
    assert data[0] == 1
    body = Bytes(data[1:])
    series = []
    for _ in range(body.varint()):
        source, kind, width, seq_max, size = (
            body.text(),
            body.text(),
            body.varint(),
            body.varint(),
            body.varint(),
        )
        starts, sizes, doubtful = body.column(size), body.column(size), body.column(size)
        full = sum(n > 0 for n in sizes)
        numbers = [iter(body.column(full)) for _ in range(4)]
        rows = [
            [start * width, n, doubts, *([next(column) / 1000 for column in numbers] if n else [])]
            for start, n, doubts in zip(starts, sizes, doubtful, strict=True)
        ]
        series.append([source, kind, width, seq_max, rows])
    assert body.at == len(body.data)
    return series


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        self.at += n
        assert self.at <= len(self.data)
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            [byte] = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return zigzag(value)

    def unit(self, version: int) -> int:
        zeros = self.varint() if version == 2 else 0
        return self.varint() * 10**zeros

    def text(self) -> str:
        return self.take(self.varint()).decode()

    def column(self, n: int) -> list[int]:
        if n == 0:
            return []
        [head] = self.take(1)
        order, packing = head >> 4, head & 15
        if packing == 0:
            firsts = [self.varint() for _ in range(order)]
            return summed([self.varint()] * (n - order), firsts)
        if packing == 2:
            inner = Bytes(zlib.decompress(self.take(self.varint()), wbits=-15))
            return [inner.varint() for _ in range(n)]
        if packing == 4:
            step = self.varint()
            beats, rest = self.column(n), self.column(n)
            return [step * beat + more for beat, more in zip(beats, rest, strict=True)]
        if packing in (6, 7):
            return list(range(n)) if packing == 7 else [0] * n
        [width] = self.take(1)
        if packing == 5:
            lowest = self.varint()
            digits = "".join(f"{byte:08b}" for byte in self.take(-(-width * n // 8)))
            return [lowest + int(digits[at * width : (at + 1) * width], 2) for at in range(n)]
        lowest = self.varint() if packing == 3 else 0
        firsts = [self.varint() for _ in range(order)]
        bits = iter("".join(f"{byte:08b}" for byte in self.take(self.varint())))

        def number(size: int) -> int:
            return int("0" + "".join(next(bits) for _ in range(size)), 2)

        values = []
        for _ in range(n - order):
            ones = 0
            while ones < 24 and next(bits) == "1":
                ones += 1
            unsigned = number(number(7)) if ones == 24 else ones << width | number(width)
            values.append(lowest + unsigned if packing == 3 else zigzag(unsigned))
        return summed(values, firsts)


def summed(values: list[int], firsts: list[int]) -> list[int]:
    for first in reversed(firsts):
        sums = [first]
        for value in values:
            sums.append(sums[-1] + value)
        values = sums
    return values


def zigzag(value: int) -> int:
    return -(value + 1) // 2 if value % 2 else value // 2


def predicted(mode: int, time_us: int, other: int) -> int:
    return (other, time_us, time_us // 60_000_000)[mode]


def merged(arrivals: list[list[int]], body: Bytes) -> tuple[list[int], list[Any]]:
    """The order that follows from the arrivals, where two series came at once from the column that is next."""
    series_at: dict[int, list[int]] = {}
    for place, part in enumerate(arrivals):
        for arrival in part:
            series_at.setdefault(arrival, []).append(place)
    shared = {arrival for arrival, places in series_at.items() if len(set(places)) > 1}
    told = iter(body.column(sum(len(series_at[arrival]) for arrival in shared)))
    order = []
    for arrival in sorted(series_at):
        order += [next(told) if arrival in shared else place for place in series_at[arrival]]
    return order, [iter(part) for part in arrivals]


def segment(data: bytes) -> list[list[Any]]:
    """The samples of a segment, as lists of their ten fields."""
    assert data[0] in (1, 2)
    inflater = zlib.decompressobj(-15, zdict=DICTIONARY)
    head = Bytes(inflater.decompress(data[1:]))
    body = Bytes(inflater.unused_data)
    count, series, low_us = head.varint(), [], 0
    for _ in range(head.varint()):
        source, kind, size = head.text(), head.text(), head.varint()
        low_us += head.varint()
        high_us = low_us + head.varint()
        mode = head.varint()
        low = head.varint() + predicted(mode, low_us, 0)
        high = head.varint() + predicted(mode, high_us, low)
        series.append((source, kind, size, low_us, high_us, mode, low, high))
    marks: dict[int, tuple[list[Any] | None, bool]] = {}
    marked = head.varint()
    for _ in range(marked):
        position, flags = head.varint(), head.varint()
        marks[position] = ([head.text(), head.varint()] if flags & 1 else None, bool(flags & 2))
    assert len(head.column(marked)) == marked
    order = body.column(count)
    by_arrival = count > 0 and set(order) == {-1}
    columns = []
    for _, _, size, first_us, _, mode, low, _ in series:
        unit = body.unit(data[0])
        times = [first_us + unit * step for step in body.column(size)]
        seqs = [r + predicted(mode, t, low) for r, t in zip(body.column(size), times, strict=True)]
        qualities = body.column(size)
        decimals = body.varint()
        if decimals == 7:
            planes = body.take(8 * size)
            values = [struct.unpack(">d", planes[i::size])[0] for i in range(size)]
        else:
            values = [whole / 10**decimals for whole in body.column(size)]
        columns.append((times, seqs, qualities, values))
    unit, flag = body.unit(data[0]), body.varint()
    arrivals = iter(body.column(count) if flag < 2 else ())
    if flag:
        each = [iter(body.column(len(times))) if flag == 2 else arrivals for times, *_ in columns]
        late = [
            iter([unit * (next(more) + t // unit) for t in times])
            for (times, *_), more in zip(columns, each, strict=True)
        ]
        if by_arrival:
            order, late = merged([list(part) for part in late], body)
        received = [next(late[place]) for place in order]
    else:
        received = [unit * arrival for arrival in arrivals]
    steady = [0] * count
    if data[0] == 2:
        near = series[0][3] // unit
        offsets = [unit * (offset + near) for offset in body.column(count)]
        steady = [arrival - offset for arrival, offset in zip(received, offsets, strict=True)]
    assert body.at == len(body.data)
    samples, used = [], [0] * len(series)
    for position, place in enumerate(order):
        times, seqs, qualities, values = (column[used[place]] for column in columns[place])
        used[place] += 1
        amends, deleted = marks.get(position, (None, False))
        source, kind = series[place][:2]
        arrived = received[position]
        told = [times, kind, values, source, seqs, qualities, arrived, amends, deleted, steady[position]]
        samples.append(told)
    return samples
