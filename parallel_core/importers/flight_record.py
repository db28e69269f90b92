"""A flight record: what NCCL's (or gloo's) last messages were when a job hung.

Field names are those of torch's FlightRecorder, format 2.x, in its JSON form: `entries`, each
with `profiling_name` ("nccl:all_reduce", "nccl:send 0->1"), `process_group` [name, desc],
`collective_seq_id`, `p2p_seq_id`, `input_sizes`, `input_dtypes`, `state` (scheduled, started,
completed), `time_created_ns` and `time_discovered_started_ns` / `..._completed_ns` (0: never),
`duration_ms`, `retired`; and `pg_config`, which maps a group's name to its ranks as a string.

The record does not say whose it is: the rank is in the file's name, or the files of a job are one
object {"0": record, "1": record}. NCCL's times are those at which its watchdog looked. gloo
writes down only the posting; `retired` says that the message ended.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import replace
from typing import Any

from parallel_core.analysis.stuck import POSTED, STARTED
from parallel_core.importers.decode import (
    TraceError,
    clean,
    listing,
    mapping,
    number,
    text,
    whole,
)
from parallel_core.importers.parts import MAX_RANKS, Part, canonical, rank_of_name, width
from parallel_core.program import Lane, Op
from parallel_core.trace import Span

TOOL = "flight recorder"
Ranks = dict[str, tuple[int, ...]]
_NANOSECONDS = 4 * 10**18


def is_record(value: object) -> bool:
    """Whether this JSON is one rank's flight record."""
    return isinstance(value, dict) and "pg_config" in value and "version" in value


def is_bundle(value: object) -> bool:
    """Whether this JSON is {"rank": record} for several ranks."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(key.isascii() and key.isdigit() and is_record(v) for key, v in value.items())
    )


def read_bundle(name: str, value: dict[str, Any]) -> list[Part]:
    """One part a rank from {"0": record, "1": record}."""
    parts = []
    for key, record in value.items():
        if len(key) > 5:
            raise TraceError(f"{name}: rank {key[:12]}... is larger than a job can be")
        parts.append(read_record(name, record, rank=int(key)))
    return parts


def read_record(name: str, value: dict[str, Any], *, rank: int | None = None) -> Part:
    """The part of one rank; `rank` if known, else from the file's name, else 0 and a note."""
    told = rank_of_name(name, last_number=True) if rank is None else rank
    entries = [
        mapping(entry, f"{name}: entry {at}")
        for at, entry in enumerate(listing(value.get("entries", []), f"{name}: entries"))
    ]
    groups = _groups(name, value)
    mine = told or 0
    now = max((_last_time(name, entry) for entry in entries), default=0)
    spans = [_span(f"{name}: entry {i}", mine, i, e, groups, now) for i, e in enumerate(entries)]
    backends = {text(e.get("profiling_name"), "profiling_name").partition(":")[0] for e in entries}
    return Part(
        tool=TOOL,
        rank=mine,
        rank_known=told is not None,
        world_size=max((r + 1 for ranks in groups.values() for r in ranks), default=1),
        spans=tuple(spans),
        backend=" and ".join(sorted(backends)),
        notes=_notes(backends, told),
    )


def _notes(backends: set[str], told: int | None) -> tuple[str, ...]:
    notes = []
    if "nccl" in backends:
        notes.append("times are those at which the watchdog looked")
    if "gloo" in backends:
        notes.append("gloo records the posting of a message, not its end")
    if told is None:
        notes.append("the file's name tells no rank: drawn as rank 0")
    return tuple(notes)


def _groups(name: str, value: dict[str, Any]) -> Ranks:
    """Process group -> its global ranks; the ranks stand in a string, "[0, 1]"."""
    groups: Ranks = {}
    for key, config in mapping(value.get("pg_config"), f"{name}: pg_config").items():
        ranks = mapping(config, f"{name}: pg_config {clean(key)}").get("ranks", "[]")
        if isinstance(ranks, list):
            ranks = str(ranks[:MAX_RANKS])
        if not isinstance(ranks, str) or not re.fullmatch(r"\[[\d, ]*\]", ranks):
            raise TraceError(f"{name}: the ranks of group {clean(key)} must read like [0, 1]")
        found = re.findall(r"\d+", ranks)
        if len(found) > MAX_RANKS or any(len(digits) > 5 for digits in found):
            raise TraceError(f"{name}: group {clean(key)} is larger than a job can be")
        groups[key] = tuple(sorted({int(digits) for digits in found}))
    return groups


def _last_time(name: str, entry: dict[str, Any]) -> int:
    return max(_time(name, entry, key) for key in ("time_created_ns", *_DISCOVERED))


_DISCOVERED = ("time_discovered_started_ns", "time_discovered_completed_ns")


def _time(what: str, entry: dict[str, Any], key: str) -> int:
    """A time in ns since 1970; 0 where it never came (the pickle form has null there)."""
    value = entry.get(key)
    return 0 if value is None else whole(value, f"{what}: {key}", 0, _NANOSECONDS)


def _span(what: str, rank: int, index: int, entry: dict[str, Any], groups: Ranks, now: int) -> Span:
    called = text(entry.get("profiling_name"), f"{what}: profiling_name")
    pair = listing(entry.get("process_group"), f"{what}: process_group")
    group, desc = ([text(word, f"{what}: process_group") for word in pair[:2]] + ["", ""])[:2]
    op = canonical(called.partition(":")[2].split(" ")[0]) or clean(called)
    ranks = groups.get(group, ())
    p2p = op in (Op.SEND, Op.RECV)
    peers = _ends(rank, called, ranks) if p2p else ranks
    seq = whole(entry.get("collective_seq_id", 0), f"{what}: collective_seq_id")
    post = _time(what, entry, "time_created_ns")
    start, done, state = _times(what, entry, post, now)
    return Span(
        rank=rank,
        step=0,
        index=index,
        lane=Lane.COMM.value,
        op=op,
        where=state,
        t_post=post,
        t_start=start,
        t_done=done,
        bytes=_bytes(what, entry, "output" if op == Op.RECV else "input"),
        axis=None if p2p else (desc if desc not in ("", "undefined") else f"group {group}"),
        peers=peers,
        seq=None if p2p else seq,
    )


def _times(what: str, entry: dict[str, Any], post: int, now: int) -> tuple[int, int, str]:
    """(start, end, what is missing); an unfinished message lasts to the record's last moment."""
    started, completed = (_time(what, entry, key) for key in _DISCOVERED)
    if completed:
        done = max(completed, post)
        lasted = number(entry.get("duration_ms") or 0, f"{what}: duration_ms", 0, 1e12)
        start = started or (done - round(lasted * 1e6) if lasted else post)
        return min(max(start, post), done), done, ""
    if started:
        return max(started, post), max(now, started, post), STARTED
    if str(entry.get("profiling_name")).startswith("gloo:") and entry.get("retired") is True:
        return post, post, ""
    return post, max(now, post), POSTED


def _ends(rank: int, called: str, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """(source, destination) of "nccl:send 0->1" or "nccl:recv 1<-0", group ranks made global."""
    match = re.fullmatch(r"\w+:(?:send|recv) (\d{1,5})(->|<-)(\d{1,5})", called)
    if match is None:
        return ()
    one, two = (ranks[int(i)] if int(i) < len(ranks) else int(i) for i in (match[1], match[3]))
    ends = (one, two) if match[2] == "->" else (two, one)
    return ends if rank in ends else ()


def _bytes(what: str, entry: dict[str, Any], side: str) -> int:
    """Bytes of the tensors handed over: sizes times the width of their dtypes."""
    sizes = listing(entry.get(f"{side}_sizes", []), f"{what}: {side}_sizes")
    dtypes = listing(entry.get(f"{side}_dtypes", []), f"{what}: {side}_dtypes")
    total = 0
    for at, dims in enumerate(sizes):
        shape = [whole(d, f"{what}: {side}_sizes", 0) for d in listing(dims, f"{what}: sizes")]
        dtype = text(dtypes[min(at, len(dtypes) - 1)], f"{what}: {side}_dtypes") if dtypes else ""
        total += math.prod(shape[:16]) * width(dtype)
    if total > 2**62:
        raise TraceError(f"{what}: {side}_sizes are larger than any memory")
    return total


def with_groups(parts: list[Part]) -> list[Part]:
    """Records' parts, with the ranks of groups that no `pg_config` names (gloo's says nothing).

    The default group is taken as all the ranks loaded, another as those that used it.
    """
    users: dict[str | None, set[int]] = defaultdict(set)
    for part in parts:
        for span in part.spans:
            users[span.axis].add(part.rank)
    users["default_pg"] = {part.rank for part in parts}
    note = "groups without a list of ranks are taken as those that used them"
    out = []
    for part in parts:
        spans = tuple(
            s
            if s.peers or s.axis is None or part.tool != TOOL
            else replace(s, peers=tuple(sorted(users[s.axis])))
            for s in part.spans
        )
        notes = part.notes if spans == part.spans else (*part.notes, note)
        out.append(replace(part, spans=spans, notes=notes))
    return out
