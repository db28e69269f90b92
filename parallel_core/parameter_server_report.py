"""A run with a parameter server as its owner follows it, and what its report says beyond others'.

An asynchronous run is one program, which is known when the order of its updates is: notes wait
until then. While it goes on, the program is that of its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from parallel_core.cost import Link
from parallel_core.data import server_step
from parallel_core.data.parameter_server import Update, expected_total, staleness
from parallel_core.data.server_step import SpeedCost
from parallel_core.plan import Plan, Server
from parallel_core.program import Program
from parallel_core.recording import Expander, Note
from parallel_core.replay import ASSUMED, ASSUMED_RATE, fit_link, fitted_rate, model_cost, replay
from parallel_core.report import RunView
from parallel_core.simulate import simulate
from parallel_core.sizes import step_flops
from parallel_core.trace import Span, Trace

PACED = "paced compute"
"""The badge of a run whose workers sleep, so that nobody takes it for a raw one."""


class ServerView(RunView):
    """Follows one run of a plan with a parameter server. `updates` are those known so far."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.updates: list[Update] = []
        self._total = 0
        self._waiting: list[list[Note]] = [[] for _ in range(plan.world_size)]
        self._expanded = (0, 0)  # updates and notes at the last expansion
        self._asynchronous = plan.parameter_server == Server.ASYNC

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event of the run."""
        if event["event"] == "updates":
            self._total = event["total"]
            for worker, version, seconds, _ in event["updates"]:
                number = len(self.updates)
                update = Update(number=number, worker=worker, version=version, seconds=seconds)
                self.updates.append(update)
        elif event["event"] == "notes" and self._asynchronous:
            self._waiting[event["rank"]] += event["notes"]
        else:
            super().feed(event)

    @property
    def order(self) -> list[int]:
        """The worker of each update: what `replay_order` takes."""
        return [update.worker for update in self.updates]

    @property
    def trace(self) -> Trace:
        """The measured trace so far."""
        if self._asynchronous and self.updates:
            self._expand()
        trace = super().trace
        notes = (*trace.provenance.notes, *((PACED,) if server_step.paced(self.plan) else ()))
        return replace(trace, provenance=replace(trace.provenance, notes=notes))

    def _expand(self) -> None:
        """Spans of all notes whose instructions the order known so far tells."""
        known = (len(self.updates), sum(map(len, self._waiting)))
        if known == self._expanded:
            return
        self._expanded = known
        order, total = self.order, self._total
        self.program = server_step.asynchronous(self.plan, order, total=total)
        expander, spans = Expander(self.program), list[Span]()
        for rank, notes in enumerate(self._waiting):
            count = len(self.program.ranks[rank])
            spans += expander.spans(rank, [note for note in notes if note[1] < count])
        self._spans = spans

    def finish(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The report of a finished run, with the staleness of its updates if it has any."""
        found = results[0]
        if self._asynchronous:
            _ = self.trace  # the whole order is known by now, and with it the program
        report = {**super().finish(results), "digest": found["digest"]}
        if self._asynchronous:
            report["staleness"] = staleness_report(self.plan, self.updates)
            report["replay_order"] = self.order
            report["losses"] = found["losses"]
        return report

    def own_device(self, link: Link | None = None) -> Trace:
        """The replay; where workers slept, their devices are as slow as they pretended to be."""
        if not server_step.paced(self.plan):
            return super().own_device(link)
        measured = self.trace
        spans = tuple(
            replace(span, cpu_ns=max(span.cpu_ns, span.duration)) if span.op in ("F", "B") else span
            for span in measured.spans
        )
        trace = replay(self.plan, self.program, replace(measured, spans=spans), link=link)
        notes = (*trace.provenance.notes, PACED)
        return replace(trace, provenance=replace(trace.provenance, notes=notes))

    def model(self) -> Trace:
        """The program under the FLOP and alpha-beta model, workers as slow as they are said."""
        trace = self.trace
        rate, link = fitted_rate(self.plan, trace), fit_link(trace, self.program)
        return modelled(self.plan, self.program, rate=rate, link=link)

    def _times(self, steps: int) -> int:
        """An asynchronous run is its program, once."""
        return 1 if self._asynchronous else steps


def view_of(plan: Plan) -> RunView:
    """The view that follows a run of this plan."""
    return RunView(plan) if plan.parameter_server == Server.OFF else ServerView(plan)


def modelled(
    plan: Plan,
    program: Program | None = None,
    *,
    rate: float = ASSUMED_RATE,
    link: Link = ASSUMED,
) -> Trace:
    """A program of the plan (default: the predicted one) under FLOPs over `rate` and a link.

    Each worker's compute takes its speed times as long; a pace slows the rate down to it.
    """
    if plan.pace_ms:
        rate = min(rate, step_flops(plan) / plan.dp / (plan.pace_ms / 1e3))
    cost = SpeedCost(model_cost(plan, rate=rate, link=link), (*plan.worker_speeds, 1.0))
    return simulate(program or server_step.program(plan), cost)


def staleness_report(plan: Plan, updates: Sequence[Update]) -> dict[str, Any]:
    """How old the gradients were, JSON-ready: the summary of the settled updates, and each one."""
    found = staleness(updates, plan.dp)
    bound = plan.staleness_bound
    return {
        "mean": found.mean,
        "expected_mean": plan.dp - 1 if bound is None else None,
        "by_worker": list(found.by_worker),
        "histogram": {str(age): list(count) for age, count in found.histogram.items()},
        "settled": list(found.settled),
        "total": found.total,
        "expected_total": expected_total(plan.dp, len(updates)) if bound is None else None,
        "updates": [
            {
                "number": update.number,
                "worker": update.worker,
                "version": update.version,
                "staleness": update.staleness,
                "seconds": update.seconds,
            }
            for update in updates
        ],
    }
