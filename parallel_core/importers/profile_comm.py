"""The messages of a torch.profiler trace: NCCL's kernels, or gloo's regions."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from typing import Any

from parallel_core.importers.decode import TraceError, clean
from parallel_core.importers.parts import MAX_RANKS, canonical, width
from parallel_core.importers.profile_events import DEVICE, Event, HostOp, Profile
from parallel_core.program import Lane, Op
from parallel_core.trace import Span

Groups = dict[str, tuple[str, tuple[int, ...]]]
"""Process group name -> (axis, global ranks)."""

_GROUPLESS = "gloo's profile names no group: messages are drawn over the default group"
_NO_END = "gloo's profile shows when a send or receive was posted, not its end"


def nccl_spans(rank: int, profile: Profile, host: list[HostOp], groups: Groups) -> list[Span]:
    """NCCL's kernels; for a profile without a device, the host's calls that posted them."""
    kernels = [e for cat in DEVICE for e in profile.events.get(cat, []) if _is_nccl(e)]
    calls = [op.event for op in host if op.event.name == "record_param_comms"]
    posted = {event.id: event.start for event in reversed(calls) if event.id is not None}
    spans = []
    for event in kernels or [e for e in calls if canonical(str(e.args.get("Collective name")))]:
        post = min(posted.get(event.id, event.start), event.start)
        spans.append(_nccl(rank, profile, event, post, groups))
    return spans


def _is_nccl(event: Event) -> bool:
    return "Collective name" in event.args or event.name.lower().startswith("nccl")


def _nccl(rank: int, profile: Profile, event: Event, post: int, groups: Groups) -> Span:
    args = event.args
    op = canonical(str(args.get("Collective name") or event.name)) or "nccl"
    axis, ranks = _group(args, groups)
    peers = _ends(rank, op, args) if op in (Op.SEND, Op.RECV) else ranks
    count = args.get("Out msg nelems" if op == Op.RECV else "In msg nelems", 0)
    numel = count if isinstance(count, int) and 0 <= count < 2**50 else 0
    return Span(
        rank=rank,
        step=profile.step_at(post),
        index=0,
        lane=Lane.COMM.value,
        op=op,
        t_post=post,
        t_start=event.start,
        t_done=event.end,
        bytes=numel * width(str(args.get("dtype", ""))),
        axis=None if op in (Op.SEND, Op.RECV) else axis,
        peers=peers,
        source=event.name if event.cat in DEVICE else "",
    )


def _group(args: dict[str, Any], groups: Groups) -> tuple[str | None, tuple[int, ...]]:
    """The axis and the global ranks; a list that kineto cut is looked up by its name."""
    name = str(args.get("Process Group Name", ""))[:300]
    known = groups.get(name, (f"group {clean(name)}" if name else None, ()))
    listed = str(args.get("Process Group Ranks", ""))
    if not re.fullmatch(r"\[[\d, ]*\]", listed):
        return known
    found = [int(digits) for digits in re.findall(r"\d{1,6}", listed)]
    if len(found) > MAX_RANKS or max(found, default=0) >= MAX_RANKS:
        raise TraceError(f"process group {name[:40]} is larger than a job can be")
    return known[0], tuple(sorted(set(found))) or known[1]


def _ends(rank: int, op: str, args: dict[str, Any]) -> tuple[int, ...]:
    """(source, destination), global ranks."""
    other = args.get("Dst Rank" if op == Op.SEND else "Src Rank")
    if not isinstance(other, int) or not 0 <= other < MAX_RANKS:
        return ()
    return (rank, other) if op == Op.SEND else (other, rank)


def gloo_spans(
    rank: int, profile: Profile, host: list[HostOp], groups: Groups
) -> tuple[list[Span], list[str]]:
    """gloo's regions, each with the `c10d::...` op that posted it, and what to say of them.

    A region runs on a thread of gloo's own; the oldest op of its kind that was posted before it
    and is not taken yet is the one that asked for it.
    """
    waiting: dict[str, deque[Event]] = defaultdict(deque)
    for op in sorted(host, key=lambda h: h.event.start):
        if op.event.name.startswith("c10d::"):
            waiting[canonical(op.event.name.removeprefix("c10d::")) or ""].append(op.event)
    regions = [e for e in profile.events.get("user_annotation", []) if e.name.startswith("gloo:")]
    axis, ranks = _default_group(groups)
    spans = []
    for region in sorted(regions, key=lambda e: e.start):
        kind = canonical(region.name.removeprefix("gloo:")) or region.name
        queue = waiting[kind]
        asked = queue.popleft() if queue and queue[0].start <= region.start else None
        spans.append(_gloo(rank, profile, region, asked, (kind, axis, ranks)))
    several = len({ranks for _, ranks in groups.values() if len(ranks) > 1}) > 1
    one_sided = any(span.op in (Op.SEND, Op.RECV) for span in spans)
    return spans, [_GROUPLESS] * (several and bool(spans)) + [_NO_END] * one_sided


def _default_group(groups: Groups) -> tuple[str, tuple[int, ...]]:
    named = [group for group in groups.values() if group[0] == "default_pg"]
    return next(iter([*named, *groups.values()]), ("default_pg", ()))


def _gloo(
    rank: int,
    profile: Profile,
    region: Event,
    asked: Event | None,
    group: tuple[str, str, tuple[int, ...]],
) -> Span:
    op, axis, ranks = group
    pair = op in (Op.SEND, Op.RECV)
    post = region.start if asked is None else asked.start
    return Span(
        rank=rank,
        step=profile.step_at(post),
        index=0,
        lane=Lane.COMM.value,
        op=op,
        t_post=post,
        t_start=region.start,
        t_done=region.end,
        bytes=_payload(region),
        axis=None if pair else axis,
        peers=_posted_ends(rank, op, asked, ranks) if pair else ranks,
    )


def _payload(region: Event) -> int:
    """Bytes from `Input Dims` and `Input type`, if the profile recorded shapes."""
    dims, types = region.args.get("Input Dims"), region.args.get("Input type")
    if not isinstance(dims, list) or not isinstance(types, list):
        return 0
    total = 0
    for shape, dtype in zip(dims, types, strict=False):
        if not isinstance(shape, list) or not all(isinstance(d, int) and d >= 0 for d in shape):
            continue
        size = width(str(dtype)[:40])
        for dim in shape[:16]:
            size = min(size * dim, 2**60)
        total += size
    return total


def _posted_ends(
    rank: int, op: str, asked: Event | None, ranks: tuple[int, ...]
) -> tuple[int, ...]:
    """(source, destination) from `c10d::send(tensors, group, peer, tag)`, if shapes were kept."""
    inputs = asked.args.get("Concrete Inputs") if asked else None
    if (
        not isinstance(inputs, list)
        or len(inputs) < 3
        or not re.fullmatch(r"\d{1,5}", str(inputs[2]))
    ):
        return ()
    other = int(inputs[2])
    other = ranks[other] if other < len(ranks) else other
    return (rank, other) if op == Op.SEND else (other, rank)
