"""The runs a reader made on the shard bench, found again by their plan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import streamlit as st

from parallel_core.cases import program_of
from parallel_core.ledger import predicted_memory
from parallel_core.outline import Held
from parallel_core.peak import predicted_peak
from parallel_core.plan import Plan
from parallel_core.program import Program
from parallel_core.report import predict
from parallel_core.request import Request
from parallel_core.trace import Trace
from parallel_core.views.shards import Stage
from parallel_core.views.shards_traffic import Sent, Traffic, at_stage, predicted, sent
from screens import in_turn, live
from screens.live import Finished, Follower

MOST = 16
STAGES = range(4)


@dataclass(frozen=True)
class Kept:
    """One finished run of this session, numbered from 1; `gauge` is what its memory was."""

    number: int
    name: str
    plan: Plan
    done: Finished
    gauge: tuple[Held, ...]

    @property
    def badge(self) -> str:
        """Where its marks come from."""
        return f"run #{self.number}, {self.plan.layout}; {self.done.trace.provenance.badge}"

    @property
    def sent(self) -> Sent:
        """Elements that a rank was counted to send in a step, by axis."""
        report = self.done.report
        return sent(report["ledger"]["wire"]["measured"], self.plan, len(report["steps"]))

    @property
    def peak(self) -> list[int] | None:
        """The most bytes of state that each rank was seen to hold; None if nobody looked."""
        found = self.done.report["ledger"]["memory"].get("peak")
        return None if found is None else list(found["total"])

    def readings(self, rank: int, step: int) -> list[Held]:
        """What was read on a rank in a step, after each of its instructions."""
        return [row for row in self.gauge if (row.rank, row.step) == (rank, step)]


def keep(run: Follower, done: Finished, page: str) -> None:
    """Remember a finished run; the oldest goes when there are too many."""
    runs: list[Kept] = st.session_state.setdefault(f"{page}.runs", [])
    if done.trace.spans and all(kept.name != run.asked.name for kept in runs):
        number = runs[-1].number + 1 if runs else 1
        plan, gauge = run.asked.request.plan, tuple(run.view.gauge)
        runs.append(Kept(number, run.asked.name, plan, done, gauge))
        del runs[:-MOST]


def current(page: str) -> Follower | None:
    """The run being followed; a finished one is kept, and the next that waits is started."""
    return in_turn.take(live.current(page), page, partial(keep, page=page))


def latest(plan: Plan, page: str) -> Kept | None:
    """The last run of exactly this plan."""
    runs: list[Kept] = st.session_state.get(f"{page}.runs", [])
    return next((run for run in reversed(runs) if run.plan == plan), None)


def forget_all(page: str) -> None:
    """Forget every run of this session, the one that `page` follows too."""
    st.session_state[f"{page}.runs"] = []
    live.forget(page)


def every_stage(request: Request) -> list[Request]:
    """The request at each ZeRO stage."""
    plans = [at_stage(request.plan, zero) for zero in STAGES]
    return [Request.of(**plan.flat(), steps=request.steps) for plan in plans]


@lru_cache(maxsize=64)
def program(plan: Plan) -> Program:
    """The plan's step as data."""
    return program_of(plan)


@lru_cache(maxsize=64)
def modelled(plan: Plan) -> Trace:
    """One step as the model lays it out, before anything ran."""
    return predict(plan)


@lru_cache(maxsize=64)
def most(plan: Plan) -> dict[str, list[int]]:
    """The most bytes that each rank can hold within a step, whatever the timing."""
    return predicted_peak(plan, program(plan))


@lru_cache(maxsize=64)
def _sent(plan: Plan) -> Sent:
    return predicted(plan, program(plan))


def traffic(plan: Plan, run: Kept | None) -> Traffic:
    """What a rank sends under `plan`, and what `run` counted."""
    return Traffic(plan, _sent(plan), None if run is None else run.sent)


def stage(plan: Plan, run: Kept | None) -> Stage:
    """What `plan` leaves on each rank, and what `run` measured."""
    memory = None if run is None else run.done.report["ledger"]["memory"]["measured"]
    return Stage(
        zero=plan.zero,
        predicted=predicted_memory(plan),
        peak=most(plan)["total"],
        measured=memory,
        measured_peak=None if run is None else run.peak,
    )
