"""A torch.profiler trace: host ops or kernels on the compute lane, messages on the comm lane.

With a device in it, the compute lane holds the kernels and copies, and the comm lane NCCL's
kernels, each named after the host op that launched it. Without one, the compute lane holds the
outermost host ops, and the comm lane the `gloo:...` regions (or, for NCCL, the host's
`record_param_comms`). An op is B if autograd's engine ran it, F if a backward belongs to it, O
inside `Optimizer.step`; anything else keeps its own name.

kineto gives messages these args: `Collective name`, `dtype`, `In msg nelems`, `Out msg nelems`,
`Process Group Name`, `Process Group Description`, `Process Group Ranks` (a string, cut in the
middle when long), `Src Rank`, `Dst Rank`. gloo's have none of them: its groups and its peers
come from `distributedInfo` and from the `c10d::...` op that posted the message.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from parallel_core.importers.decode import clean, listing, mapping, text, whole
from parallel_core.importers.parts import MAX_RANKS, Part, numbered, rank_of_name
from parallel_core.importers.profile_comm import Groups, gloo_spans, nccl_spans
from parallel_core.importers.profile_events import (
    DEVICE,
    HOST,
    Event,
    HostOp,
    Profile,
    host_ops,
    read_events,
)
from parallel_core.program import Lane, Op
from parallel_core.trace import Span

TOOL = "torch.profiler"
_ENGINE = "autograd::engine::evaluate_function: "


def is_profile(value: object) -> bool:
    """Whether this JSON is a Chrome trace."""
    return isinstance(value, dict) and "traceEvents" in value


def read_profile(name: str, value: dict[str, Any]) -> Part:
    """The part of the one rank that wrote this profile."""
    profile = read_events(name, value)
    info = mapping(value.get("distributedInfo", {}), f"{name}: distributedInfo")
    rank, known = _rank(name, info)
    groups = _groups(name, info)
    world = whole(info.get("world_size", 1), f"{name}: world_size", 1, MAX_RANKS)
    host = host_ops(profile)
    on_device = any(profile.events.get(cat) for cat in DEVICE)
    notes = [] if known else ["neither the profile nor its name tells a rank: drawn as rank 0"]
    if on_device:
        spans = _kernels(rank, profile, host)
        notes.append("host ops left out")
    else:
        spans = _host_work(rank, profile, host)
    comm = nccl_spans(rank, profile, host, groups)
    if not comm:
        comm, said = gloo_spans(rank, profile, host, groups)
        notes += said
    everything = sorted([*spans, *numbered(comm)], key=lambda s: (s.t_start, s.t_done))
    return Part(
        tool=TOOL,
        rank=rank,
        rank_known=known,
        world_size=max(world, rank + 1),
        spans=tuple(_indexed(everything)),
        backend=text(info.get("backend", ""), f"{name}: backend"),
        notes=tuple(notes),
    )


def _indexed(spans: list[Span]) -> list[Span]:
    """Numbered within their step, as instructions are."""
    counts: dict[int, int] = {}
    out = []
    for span in spans:
        index = counts.get(span.step, 0)
        counts[span.step] = index + 1
        out.append(replace(span, index=index))
    return out


def _rank(name: str, info: dict[str, Any]) -> tuple[int, bool]:
    if "rank" in info:
        return whole(info["rank"], f"{name}: distributedInfo rank", 0, MAX_RANKS - 1), True
    told = rank_of_name(name, last_number=False)
    return (0, False) if told is None or told >= MAX_RANKS else (told, True)


def _groups(name: str, info: dict[str, Any]) -> Groups:
    """Process group name -> (axis, its global ranks), from `distributedInfo.pg_config`."""
    groups: Groups = {}
    for config in listing(info.get("pg_config", []), f"{name}: pg_config"):
        group = mapping(config, f"{name}: pg_config")
        key = clean(str(group.get("pg_name", ""))[:300])
        desc = text(group.get("pg_desc", ""), f"{name}: pg_desc")
        ranks = [
            whole(rank, f"{name}: the ranks of group {key}", 0, MAX_RANKS - 1)
            for rank in listing(group.get("ranks", []), f"{name}: the ranks of group {key}")
        ]
        axis = desc if desc not in ("", "undefined") else f"group {key}"
        groups[key] = (axis, tuple(sorted(set(ranks))))
    return groups


def _host_work(rank: int, profile: Profile, host: list[HostOp]) -> list[Span]:
    """The outermost host ops that are compute."""
    return [
        _work(rank, profile, op, op.event)
        for op in host
        if op.event is op.outer and not op.in_message and not _posts(op.event)
    ]


def _kernels(rank: int, profile: Profile, host: list[HostOp]) -> list[Span]:
    """The device's work, each piece under the name of the host op that launched it."""
    launched = {op.event.id: op for op in host if op.event.id is not None}
    spans = []
    for cat in DEVICE:
        for event in profile.events.get(cat, []):
            if "nccl" in event.name.lower() or "Collective name" in event.args:
                continue
            host_op = launched.get(event.id) if event.id is not None else None
            spans.append(_work(rank, profile, host_op or HostOp(event, event, "", False), event))
    return spans


def _posts(event: Event) -> bool:
    return event.name.startswith("c10d::") or event.name == "record_param_comms"


def _work(rank: int, profile: Profile, host: HostOp, ran: Event) -> Span:
    op, where = _phase(profile, host)
    return Span(
        rank=rank,
        step=profile.step_at(host.outer.start),
        index=0,
        lane=Lane.COMPUTE.value,
        op=op,
        where=where,
        t_post=min(host.event.start, ran.start),
        t_start=ran.start,
        t_done=ran.end,
        source=ran.name if ran.cat in DEVICE else host.annotation,
    )


def short(kernel: str) -> str:
    """A kernel's own name without its namespaces, template arguments and parameters."""
    bare = kernel.removeprefix("void ").replace("(anonymous namespace)::", "")
    if re.match(r"[\w:]*\w[<(]", bare) is None:
        return bare[:60]
    return re.split(r"[<(]", bare)[0].rpartition("::")[2][:60]


def _phase(profile: Profile, host: HostOp) -> tuple[str, str]:
    """(op, where) of a host op: B, F, O, or its own name."""
    name = host.outer.name if host.outer.cat in HOST else short(host.outer.name)
    if name.startswith(_ENGINE):
        return Op.B.value, name.removeprefix(_ENGINE).removeprefix("torch::autograd::")
    bare = name.removeprefix("aten::")
    if host.annotation.startswith("Optimizer.step"):
        return Op.O.value, bare
    return (Op.F.value, bare) if profile.is_forward(host.outer) else (bare, "")
