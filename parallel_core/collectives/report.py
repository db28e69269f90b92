"""A live collective as its owner follows it: spans, counts, bandwidths, whether it kept its word.

The same object serves the command line, the studio page and a notebook; it loads no torch.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from parallel_core import __version__
from parallel_core.collectives.costs import algorithm_bandwidth, bus_bandwidth, predicted
from parallel_core.collectives.request import WIDTHS, CollectiveRequest
from parallel_core.program import Op
from parallel_core.provenance import commit
from parallel_core.recording import Expander
from parallel_core.trace import Kind, Provenance, Span, Trace


class CollectiveView:
    """Follows one run of `request`: feed it the events, then the results."""

    def __init__(self, request: CollectiveRequest) -> None:
        self.request, self.program = request, request.program
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
            versions={"shardlab": __version__, "python": platform.python_version()},
            plan=request.flat(),
        )

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event of the run."""
        if event["event"] == "notes":
            self._spans += self._expander.spans(event["rank"], event["notes"])

    @property
    def trace(self) -> Trace:
        """Every run of the collective so far; step 0 is the warm-up."""
        order = sorted(self._spans, key=lambda s: (s.rank, s.step, s.t_start))
        return Trace(tuple(order), self._provenance, self.request.ranks)

    def typical(self) -> Trace:
        """The run (after the warm-up) whose duration is the median one."""
        trace = self.trace
        steps = [step for step in trace.steps if step] or list(trace.steps)
        ranked = sorted(steps, key=lambda step: trace.only(step).makespan)
        return trace.only(ranked[len(ranked) // 2]) if ranked else trace

    def finish(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `shardlab collective --json` prints."""
        request = self.request
        tally = predicted(
            request.op,
            request.algorithm,
            request.group,
            request.elements,
            itemsize=WIDTHS[request.dtype],
        )
        times = {who: _seconds(results, who) for who in results[0]["seconds"]}
        return {
            "request": request.flat(),
            "messages": {
                "predicted": tally.messages,
                "measured": sum(_sent(result, 0) for result in results) // request.repeats,
            },
            "bytes_sent": {
                "predicted": list(tally.sent),
                "measured": [_sent(result, 1) // request.repeats for result in results],
            },
            "seconds": {who: median(each) for who, each in times.items()},
            "bandwidth": {who: self.bandwidth(median(each)) for who, each in times.items()},
            "max_rel_error": max(result["error"] for result in results),
            "max_rel_error_to_torch": _worst(results),
            "equal_on_all_ranks": _equal(results),
            "provenance": {"badge": self._provenance.badge, **self._provenance.versions},
        }

    def bandwidth(self, seconds: float) -> dict[str, float]:
        """Algorithm and bus bandwidth of a run, GB/s; {} for an op that has none."""
        op, n, size = self.request.op, self.request.ranks, self.request.bytes
        if not seconds or op in ("barrier", "send_recv"):
            return {}
        return {
            "algorithm_gb_s": algorithm_bandwidth(size, seconds) / 1e9,
            "bus_gb_s": bus_bandwidth(op, n, size, seconds) / 1e9,
        }


def _seconds(results: Sequence[Mapping[str, Any]], who: str) -> list[float]:
    """Per run the time of the slowest rank; the warm-up left out where there are more."""
    each = [max(times) for times in zip(*(r["seconds"][who] for r in results), strict=True)]
    return each[1:] or each


def _sent(result: Mapping[str, Any], which: int) -> int:
    return sum(row[2 + which] for row in result["counts"] if row[1] == Op.SEND.value)


def _worst(results: Sequence[Mapping[str, Any]]) -> float | None:
    told = [r["error_to_torch"] for r in results if r["error_to_torch"] is not None]
    return max(told) if told else None


def _equal(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether ranks that were promised the same value hold it to the bit."""
    seen: dict[str, set[str]] = {}
    for result in results:
        for name, digest in result["digest"].items():
            seen.setdefault(name, set()).add(digest)
    return all(len(digests) == 1 for digests in seen.values())
