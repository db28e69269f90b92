"""What a strict training found, told from its events: where everybody stood, and what `check` says.

finding.py waits for a run of its own; this follows one that somebody else has started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parallel_core.analysis.wait_for import WaitFor
from parallel_core.deadlock.finding import LEGAL, PASSING, graph_of, record, verdict, what_ran
from parallel_core.deadlock.request import StrictRun
from parallel_core.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Told:
    """A strict training that is over.

    `written` are the words of `check` on the program, `ran` those on the calls that were made,
    asked only where a program that `check` calls legal hung. `graph` is where everybody stood;
    None where all ranks came to their end, with `losses`, a step each. `trace` holds the calls.
    """

    asked: StrictRun
    written: str
    ran: str
    graph: WaitFor | None
    losses: tuple[float, ...]
    trace: Trace

    @property
    def legal(self) -> bool:
        """Whether `check` calls the program legal."""
        return self.written == LEGAL

    @property
    def sentence(self) -> str:
        """What happened, in one sentence."""
        if self.graph is not None:
            return self.graph.sentence
        return f"all {self.asked.plan.world_size} ranks came to their end"


class StrictView:
    """Follows a strict training: feed it the events; `finish` when its ranks have returned."""

    def __init__(self, asked: StrictRun) -> None:
        self.asked = asked
        self.met = 0
        self._told: dict[int, Mapping[str, Any]] = {}  # by rank: how it ended

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event of the run."""
        if event["event"] == "begun":
            self.met += 1
        else:
            self._told[event["rank"]] = event

    @property
    def done(self) -> float:
        """How far the run is, from 0 to 1: ranks that have met, then ranks that are over."""
        return (self.met + len(self._told)) / (2 * self.asked.plan.world_size)

    def finish(self) -> Told:
        """What was found; call it when every rank has told how it ended."""
        program, size = self.asked.program, self.asked.plan.world_size
        posts = [self._told[rank]["posts"] for rank in range(size)]
        graph, written = graph_of(self._told), verdict(program)
        surprised = graph is not None and written == LEGAL
        return Told(
            asked=self.asked,
            written=written,
            ran=verdict(what_ran(program.mesh, posts)) if surprised else "",
            graph=graph,
            losses=tuple(self._told[0].get("losses", ())),
            trace=record(posts, self.asked.plan.layout, PASSING[self.asked.passing]),
        )
