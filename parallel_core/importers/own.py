"""Our own trace file, read from a stranger: every column is checked before it becomes a Trace."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from parallel_core.importers.decode import TraceError, listing, mapping, number, text, whole
from parallel_core.importers.parts import MAX_RANKS, MAX_SPANS
from parallel_core.trace import (
    SCHEMA,
    Kind,
    NodeOffset,
    Provenance,
    Span,
    Trace,
    spans_of_columns,
)

_TIME = 4 * 10**18
_WORDS = ("lane", "op", "where", "source")
_COUNTS = ("step", "index", "cpu_ns", "bytes", "memory")
_TIMES = ("t_post", "t_start", "t_done")
_NEEDED = ("rank", "step", "index", "lane", "op", *_TIMES)


def is_own(value: object) -> bool:
    """Whether this JSON says it is a ShardLab trace."""
    return isinstance(value, dict) and "shardlab_trace" in value


def read_own(name: str, value: dict[str, Any]) -> Trace:
    """The trace in a file of ours; raises TraceError naming the column and the row."""
    if value["shardlab_trace"] != SCHEMA:
        raise TraceError(f"{name} has another schema than {SCHEMA}; record it again")
    world = whole(value.get("world_size"), f"{name}: world_size", 1, MAX_RANKS)
    columns = _columns(name, mapping(value.get("spans"), f"{name}: spans"), world)
    spans = tuple(spans_of_columns(columns))
    for at, span in enumerate(spans):
        if span.t_done < span.t_start:
            raise TraceError(f"{name}: span {at} ends before it starts; record it again")
    metrics = [
        mapping(step, f"{name}: metrics") for step in listing(value.get("metrics", []), "metrics")
    ]
    return Trace(
        spans=spans,
        provenance=_provenance(
            name, mapping(value.get("provenance"), f"{name}: provenance"), world
        ),
        world_size=world,
        metrics=tuple(_plain(step, f"{name}: metrics", 3) for step in metrics),
    )


def _columns(name: str, raw: dict[str, Any], world: int) -> dict[str, list[Any]]:
    known = {f.name for f in fields(Span)}
    columns = {}
    for key, values in raw.items():
        if key not in known:
            raise TraceError(f"{name}: spans has an unknown column {text(key, 'a column')!r}")
        rows = listing(values, f"{name}: column {key}")
        columns[key] = [_cell(name, key, at, cell, world) for at, cell in enumerate(rows)]
    missing = [key for key in _NEEDED if key not in columns]
    if missing:
        raise TraceError(f"{name}: spans has no column {missing[0]}")
    sizes = {len(rows) for rows in columns.values()}
    if len(sizes) > 1:
        raise TraceError(f"{name}: the columns of spans have different lengths; it is cut off")
    if max(sizes) > MAX_SPANS:
        raise TraceError(f"{name}: more than {MAX_SPANS:,} spans; record fewer steps")
    return columns


def _cell(name: str, key: str, at: int, cell: object, world: int) -> object:
    what = f"{name}: {key} of span {at}"
    if key in _WORDS:
        return text(cell, what)
    if key in _TIMES:
        return whole(cell, what, -_TIME, _TIME)
    if key in ("peers", "deps"):
        high = world - 1 if key == "peers" else _TIME
        return [whole(one, what, 0, high) for one in listing(cell, what)]
    if key == "inside":
        return [_inside(what, one) for one in listing(cell, what)]
    if key == "axis":
        return None if cell is None else text(cell, what)
    if key in ("mb", "seq"):
        return None if cell is None else whole(cell, what, 0, _TIME)
    return whole(cell, what, 0, world - 1 if key == "rank" else _TIME)


def _inside(what: str, one: object) -> list[object]:
    """A message inside a task: op, axis, what it carries, bytes, begin, end."""
    row = listing(one, what)
    if len(row) != 6:
        raise TraceError(f"{what} must hold messages of six entries, not {len(row)}")
    times = [whole(time, what, -_TIME, _TIME) for time in row[4:]]
    return [*(text(word, what) for word in row[:3]), whole(row[3], what, 0, _TIME), *times]


def _provenance(name: str, raw: dict[str, Any], world: int) -> Provenance:
    kind = raw.get("kind")
    if kind not in [k.value for k in Kind]:
        raise TraceError(f"{name}: provenance kind must be one of {', '.join(Kind)}")
    seed = raw.get("seed")
    words = ("title", "backend", "machine", "date", "commit")
    versions = mapping(raw.get("versions", {}), f"{name}: versions")
    return Provenance(
        kind=Kind(kind),
        seed=None if seed is None else whole(seed, f"{name}: seed"),
        versions={text(k, "a version"): text(v, "a version") for k, v in versions.items()},
        plan=_plain(mapping(raw.get("plan", {}), f"{name}: plan"), f"{name}: plan", 3),
        notes=tuple(text(n, f"{name}: notes") for n in listing(raw.get("notes", []), "notes")),
        clocks=tuple(
            _clock(mapping(one, f"{name}: clocks"), f"{name}: clocks", world)
            for one in listing(raw.get("clocks", []), f"{name}: clocks")
        ),
        **{word: text(raw.get(word, ""), f"{name}: {word}") for word in words},
    )


def _clock(raw: dict[str, Any], what: str, world: int) -> NodeOffset:
    """Another node's clock, and the ranks that took their times on it."""
    ranks = listing(raw.get("ranks"), f"{what}: ranks")
    return NodeOffset(
        node=whole(raw.get("node"), f"{what}: node", 0, MAX_RANKS),
        ranks=tuple(whole(rank, f"{what}: ranks", 0, world - 1) for rank in ranks),
        off_ns=whole(raw.get("off_ns"), f"{what}: off_ns", -_TIME, _TIME),
        unsure_ns=whole(raw.get("unsure_ns"), f"{what}: unsure_ns", 0, _TIME),
    )


def _plain(value: object, what: str, depth: int) -> Any:
    """A value of a plan or a metric: numbers, words, and lists and objects of these."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value, what)
    if isinstance(value, dict | list) and depth == 0:
        raise TraceError(f"{what} is nested more deeply than any of ours")
    if isinstance(value, dict):
        return {text(k, what): _plain(v, what, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(one, what, depth - 1) for one in value]
    return number(value, what, -1e300, 1e300)
