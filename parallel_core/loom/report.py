"""A live product as its owner follows it: spans, counts, errors, and the numbers themselves.

The same object serves the command line, the page and a notebook; it loads no torch.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from parallel_core import __version__
from parallel_core.ledger import total_wire_bytes, wire
from parallel_core.loom.by_hand import Held
from parallel_core.loom.figures import figures, value_bytes
from parallel_core.loom.proof import prove
from parallel_core.loom.request import LoomRequest
from parallel_core.program import ProgramError, Value
from parallel_core.provenance import commit
from parallel_core.recording import Expander
from parallel_core.trace import Kind, Provenance, Span, Trace

if TYPE_CHECKING:
    from parallel_core.launch import Pool

TOLERANCE = {"integers": 1e-12, "normal": 1e-5}
"""Relative error that the order of additions explains, by what the matrices are filled with."""


class LoomView:
    """Follows one run of `request`: feed it the events, then the results."""

    def __init__(self, request: LoomRequest) -> None:
        self.request, self.program = request, request.weave.program
        self._expander = Expander(self.program)
        self._spans: list[Span] = []
        self._provenance = Provenance(
            kind=Kind.MEASURED,
            title=self.program.name,
            backend="gloo",
            machine=f"{request.ranks} ranks on {os.cpu_count()} cores "
            f"({platform.machine()} {platform.system()})",
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            commit=commit(),
            seed=request.seed,
            versions={"shardlab": __version__, "python": platform.python_version()},
            plan=request.flat(),
        )

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event of the run."""
        if event["event"] == "notes":
            self._spans += self._expander.spans(event["rank"], event["notes"])

    @property
    def trace(self) -> Trace:
        """Every run of the product so far; step 0 is the warm-up."""
        order = sorted(self._spans, key=lambda s: (s.rank, s.step, s.t_start))
        return Trace(tuple(order), self._provenance, self.request.ranks)

    def typical(self) -> Trace:
        """The run (after the warm-up) whose duration is the median one."""
        trace = self.trace
        steps = [step for step in trace.steps if step] or list(trace.steps)
        ranked = sorted(steps, key=lambda step: trace.only(step).makespan)
        return trace.only(ranked[len(ranked) // 2]) if ranked else trace

    def finish(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `shardlab loom --json` prints: predicted beside measured, and the errors."""
        request, said = self.request, predicted_report(self.request)
        cut = len(request.weave.moves[0])
        halves = [_half(results, slice(0, cut)), _half(results, slice(cut, None))]
        names = list(said["bytes"]["predicted"])
        errors = results[0]["errors"]
        worst = max(each[0] for each in errors.values())
        bound = TOLERANCE[request.numbers]
        measured = {
            "messages": [len(half) for half in halves],
            "payload_bytes": [sum(size for _, size in half) for half in halves],
            "ops": [[op for op, _ in half] for half in halves],
            "wire_bytes": _wire(results, request),
            "flops": [result["flops"] for result in results],
            "bytes": {name: results[0]["bytes"][name] for name in names},
        }
        for key, value in measured.items():
            said[key]["measured"] = value
        times = [max(each) for each in zip(*(r["seconds"] for r in results), strict=True)]
        return said | {
            "agree": all(_equal(said[key]) for key in measured),
            "errors": {n: {"max_abs": e, "largest": size} for n, (e, size) in errors.items()},
            "max_abs_error": worst,
            "kept": all(e <= bound * max(size, 1.0) for e, size in errors.values()),
            "seconds": median(times[1:] or times),
            "provenance": {"badge": self._provenance.badge, **self._provenance.versions},
        }


def predicted_report(request: LoomRequest) -> dict[str, Any]:
    """The part of a report that needs no run."""
    found, weave = figures(request), request.weave
    sent = [found.forward, found.backward]
    try:
        proof, why = prove(weave), ""
    except ProgramError as error:
        proof, why = 0, str(error)
    weights = [v for v in weave.holds if v.name in ("W", "A", "B")]
    return {
        "request": request.flat(),
        "layouts": {str(v): str(layout) for v, layout in weave.layouts.items()},
        "sent": [[asdict(one) for one in half] for half in sent],
        "messages": {"predicted": [len(half) for half in sent]},
        "payload_bytes": {"predicted": [sum(one.payload for one in half) for half in sent]},
        "ops": {"predicted": [[one.op for one in half] for half in sent]},
        "wire_bytes": {"predicted": sum(found.wire)},
        "flops": {"predicted": [found.flops] * request.ranks},
        "bytes": {
            "predicted": {str(v): value_bytes(request, v) for v in (*weights, *weave.outputs)}
        },
        "terms_proved": proof,
        "refused": why,
    }


def values_of(results: Sequence[Mapping[str, Any]]) -> Held | None:
    """Per rank every matrix of a run, number by number; None where they were too large."""
    if any(result["values"] is None for result in results):
        return None
    return [{Value.parse(name): rows for name, rows in r["values"].items()} for r in results]


def follow(request: LoomRequest, pool: Pool) -> tuple[dict[str, Any], LoomView, Held | None]:
    """Run `request` on a pool and wait for the end: its report, its view, its numbers."""
    view = LoomView(request.checked())
    with pool.start(*request.order) as going:
        for event in going.events():
            view.feed(event)
        results = going.wait()
    return view.finish(results), view, values_of(results)


def _half(results: Sequence[Mapping[str, Any]], part: slice) -> list[tuple[str, int]]:
    """The messages of a half of a run as every rank booked them; they must agree."""
    first, *others = ([tuple(sent) for sent in result["log"][part]] for result in results)
    assert all(other == first for other in others), "ranks booked different messages"
    return [(str(op), int(size)) for op, size in first]


def _wire(results: Sequence[Mapping[str, Any]], request: LoomRequest) -> int:
    """Bytes that left all ranks together in one run, from every rank's counts."""
    counts = [{(row[0], row[1]): (row[2], row[3]) for row in r["counts"]} for r in results]
    table = wire(counts, lambda axis: request.ranks)
    return total_wire_bytes(table) // request.repeats


def _equal(pair: Mapping[str, Any]) -> bool:
    return bool(pair["predicted"] == pair["measured"])
