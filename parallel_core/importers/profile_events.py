"""The events of a torch.profiler Chrome trace, checked, and which host op encloses which.

A profile is an object with `traceEvents`. Events used: `ph` "X" (name, cat, pid, tid, ts and dur
in microseconds, args) and `ph` "s" of cat "fwdbwd", which mark the forward ops that have a
backward. `baseTimeNanoseconds` + 1000 ts is the wall clock.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from parallel_core.importers.decode import clean, listing, mapping, number, text, whole

HOST = ("cpu_op", "user_annotation")
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
Thread = tuple[str, str]
_FAR_US = 1e16


@dataclass(frozen=True, slots=True)
class Event:
    """One complete event; times in nanoseconds on the wall clock (or the profiler's own)."""

    name: str
    cat: str
    thread: Thread
    start: int
    end: int
    args: dict[str, Any]

    @property
    def id(self) -> object:
        """The number that links a host op and the kernels it launched; None if absent."""
        found = self.args.get("External id")
        return found if isinstance(found, int) else None


@dataclass(frozen=True, slots=True)
class HostOp:
    """A host op and where it stands: its outermost op, the annotation around it, its thread.

    `in_message` is true inside a `gloo:...` or `nccl:...` region, whose copies are no compute.
    """

    event: Event
    outer: Event
    annotation: str
    in_message: bool


@dataclass(frozen=True)
class Profile:
    """A profile's events by category, and the starts of forward ops and of steps."""

    events: dict[str, list[Event]]
    forward: dict[Thread, list[int]]
    steps: tuple[tuple[int, int], ...]

    def step_at(self, moment: int) -> int:
        """The number of the profiler step a host moment belongs to; 0 without steps."""
        at = bisect_right(self.steps, (moment, 10**9)) - 1
        return self.steps[max(at, 0)][1] if self.steps else 0

    def is_forward(self, event: Event) -> bool:
        """Whether a backward belongs to something inside this op."""
        marks = self.forward.get(event.thread, [])
        at = bisect_right(marks, event.start - 1)
        return at < len(marks) and marks[at] < event.end


def read_events(name: str, value: dict[str, Any]) -> Profile:
    """The checked events of a profile; raises TraceError naming the event and the field."""
    base = whole(value.get("baseTimeNanoseconds", 0), f"{name}: baseTimeNanoseconds", 0, 4 * 10**18)
    events: dict[str, list[Event]] = defaultdict(list)
    forward: dict[Thread, list[int]] = defaultdict(list)
    for at, raw in enumerate(listing(value.get("traceEvents"), f"{name}: traceEvents")):
        what = f"{name}: event {at}"
        event = mapping(raw, what)
        if event.get("ph") == "X" and event.get("cat") in (*HOST, *DEVICE):
            one = _event(what, event, base)
            events[one.cat].append(one)
        elif event.get("ph") == "s" and event.get("cat") == "fwdbwd":
            forward[_thread(event)].append(_moment(what, event, base))
    for marks in forward.values():
        marks.sort()
    return Profile(dict(events), dict(forward), _steps(events["user_annotation"]))


def _event(what: str, event: dict[str, Any], base: int) -> Event:
    start = _moment(what, event, base)
    lasted = round(number(event.get("dur", 0), f"{what}: dur", 0, _FAR_US) * 1000)
    return Event(
        name=text(event.get("name"), f"{what}: name"),
        cat=event["cat"],
        thread=_thread(event),
        start=start,
        end=start + lasted,
        args=mapping(event.get("args", {}), f"{what}: args"),
    )


def _moment(what: str, event: dict[str, Any], base: int) -> int:
    return base + round(number(event.get("ts"), f"{what}: ts", -_FAR_US, _FAR_US) * 1000)


def _thread(event: dict[str, Any]) -> Thread:
    return clean(str(event.get("pid"))[:40]), clean(str(event.get("tid"))[:40])


def _steps(annotations: list[Event]) -> tuple[tuple[int, int], ...]:
    """(start, number) of every `ProfilerStep#n`, in order."""
    found = ((e.start, re.fullmatch(r"ProfilerStep#(\d{1,9})", e.name)) for e in annotations)
    return tuple(sorted((start, int(match[1])) for start, match in found if match))


def host_ops(profile: Profile) -> list[HostOp]:
    """Every host op with what encloses it, in order of start on each thread."""
    threads: dict[Thread, list[Event]] = defaultdict(list)
    for cat in HOST:
        for event in profile.events.get(cat, []):
            threads[event.thread].append(event)
    out: list[HostOp] = []
    for row in threads.values():
        stack: list[tuple[int, HostOp | None, str, bool]] = []  # end, outermost op, note, in comm
        for event in sorted(row, key=lambda e: (e.start, -e.end, e.cat == "cpu_op")):
            while stack and stack[-1][0] <= event.start:
                stack.pop()
            _, outer, note, comm = stack[-1] if stack else (0, None, "", False)
            if event.cat == "cpu_op":
                op = HostOp(event, outer.outer if outer else event, note, comm)
                out.append(op)
                stack.append((event.end, outer or op, note, comm))
            else:
                comm = comm or event.name.startswith(("gloo:", "nccl:"))
                kept = note if event.name.startswith("ProfilerStep#") else event.name
                stack.append((event.end, outer, kept, comm))
    return out
