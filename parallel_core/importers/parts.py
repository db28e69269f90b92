"""Parts: what one file of another tool says of one rank, and how parts become one Trace.

Other tools write one file a rank, on the wall clock. Parts are joined on that clock: exact
between the ranks of one machine, as good as its time service between machines; the trace then
counts nanoseconds from its first event.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from parallel_core.importers.decode import TraceError
from parallel_core.program import Op
from parallel_core.trace import Kind, Provenance, Span, Trace

MAX_SPANS = 400_000
MAX_RANKS = 65_536

_OPS = (
    ("barrier", Op.BARRIER.value),
    ("allreduce", Op.ALL_REDUCE.value),
    ("allgather", Op.ALL_GATHER.value),
    ("reducescatter", Op.REDUCE_SCATTER.value),
    ("alltoall", Op.ALL_TO_ALL.value),
    ("broadcast", Op.BROADCAST.value),
    ("sendrecv", "send_recv"),
    ("send", Op.SEND.value),
    ("recv", Op.RECV.value),
    ("reduce", "reduce"),
    ("gather", "gather"),
    ("scatter", "scatter"),
    ("coalesced", "coalesced"),
)

_WIDTHS = (
    ("complex128", 16),
    ("complexdouble", 16),
    ("complex64", 8),
    ("complexfloat", 8),
    ("bfloat16", 2),
    ("float8", 1),
    ("float16", 2),
    ("float64", 8),
    ("float", 4),
    ("half", 2),
    ("double", 8),
    ("int64", 8),
    ("long", 8),
    ("int16", 2),
    ("short", 2),
    ("int8", 1),
    ("char", 1),
    ("byte", 1),
    ("bool", 1),
    ("int", 4),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One rank of a job: its spans (times in ns on `clock`), and what is known of the job.

    `rank_known` says whether the file itself or its name told the rank. `clock` is "wall" for
    nanoseconds since 1970.
    """

    tool: str
    rank: int
    rank_known: bool
    world_size: int
    spans: tuple[Span, ...]
    backend: str = ""
    notes: tuple[str, ...] = ()


def canonical(name: str) -> str | None:
    """Another tool's name of a message (`_allgather_base`, `ncclDevKernel_AllReduce_...`) as ours.

    None for what is no message.
    """
    squashed = re.sub(r"[^a-z]", "", name.lower())
    return next((op for key, op in _OPS if key in squashed), None)


def width(dtype: str) -> int:
    """Bytes of one element of a dtype as torch or C++ spells it; 0 if unknown."""
    squashed = dtype.lower().replace(" ", "").replace("_", "")
    return next((size for key, size in _WIDTHS if key in squashed), 0)


def rank_of_name(name: str, *, last_number: bool) -> int | None:
    """The rank in a file's name: the number after `rank`, or (`last_number`) the one at its end."""
    stem = re.sub(r"(\.(json|gz|pt|trace|txt))+$", "", name.lower())
    match = re.search(r"rank[\W_]{0,2}(\d{1,5})(?!\d)", stem)
    if match is None and last_number:
        match = re.search(r"(?<!\d)(\d{1,5})$", stem)
    return int(match[1]) if match else None


def numbered(spans: Sequence[Span]) -> list[Span]:
    """The spans with a `seq` on every message that has none: its count, in order of posting.

    Collectives count within their step, axis and group, sends and receives per pair.
    """
    counts: dict[tuple[object, ...], int] = defaultdict(int)
    out = []
    for span in sorted(spans, key=lambda s: (s.t_post, s.t_start)):
        if span.peers and span.seq is None:
            kind = span.op if span.op in (Op.SEND, Op.RECV) else ""
            key = (span.step, kind, span.axis, span.peers)
            span, counts[key] = replace(span, seq=counts[key]), counts[key] + 1
        out.append(span)
    return out


def join(parts: Sequence[Part], title: str) -> Trace:
    """One trace from the parts of one job; raises TraceError if they cannot be of one job."""
    _one_job(parts)
    zero = min((min(s.t_post, s.t_start) for part in parts for s in part.spans), default=0)
    world = max(max(part.world_size, part.rank + 1) for part in parts)
    world = max([world, *(peer + 1 for part in parts for s in part.spans for peer in s.peers)])
    if world > MAX_RANKS:
        raise TraceError(f"a job of {world} ranks is more than the {MAX_RANKS} that can be drawn")
    spans = [_from(zero, span) for part in parts for span in part.spans]
    return Trace(
        spans=tuple(sorted(spans, key=lambda s: (s.rank, s.step, s.lane, s.t_start, s.index))),
        provenance=Provenance(
            kind=Kind.RECORDED,
            title=title,
            backend=parts[0].backend,
            machine=f"{parts[0].tool}, {len(parts)} of {world} ranks",
            date=_date(zero),
            notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        ),
        world_size=world,
    )


def _one_job(parts: Sequence[Part]) -> None:
    tools = sorted({part.tool for part in parts})
    if len(tools) > 1:
        raise TraceError(f"these files come from {' and '.join(tools)}; load one kind at a time")
    if sum(len(part.spans) for part in parts) > MAX_SPANS:
        raise TraceError(f"more than {MAX_SPANS:,} events; record fewer steps or load fewer ranks")
    ranks = [part.rank for part in parts]
    if len(set(ranks)) < len(ranks):
        twice = next(rank for rank in ranks if ranks.count(rank) > 1)
        known = all(part.rank_known for part in parts)
        cure = "load it once" if known else "name the files after their ranks, as in rank3.json"
        raise TraceError(f"two files say they are rank {twice}; {cure}")


def _from(zero: int, span: Span) -> Span:
    return replace(
        span,
        t_post=span.t_post - zero,
        t_start=span.t_start - zero,
        t_done=span.t_done - zero,
    )


def _date(ns: int) -> str:
    """The day of a wall-clock time; empty for a clock that is not the wall's."""
    seconds = ns // 10**9
    if not 10**9 <= seconds < 10**10:
        return ""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
