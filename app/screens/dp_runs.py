"""The runs a reader made on the data-parallel page, and the model that they fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean

import streamlit as st

from parallel_core.cases import program_of
from parallel_core.cost import Link
from parallel_core.data.overlap import Overlap, fitted, ladder, messages_a_step, overlap
from parallel_core.plan import DPMethod, Plan
from parallel_core.replay import ASSUMED, ASSUMED_RATE, fit_link, fit_link_of, model_cost, replay
from parallel_core.simulate import simulate
from parallel_core.trace import Trace
from parallel_core.views.exposure import Dot, Use, use
from parallel_core.views.race import MOST_APART, Contest
from screens import live
from screens.live import Finished, Follower

MOST = 24


@dataclass(frozen=True)
class Kept:
    """One finished run of this session, numbered from 1."""

    number: int
    name: str
    plan: Plan
    done: Finished
    link: Link  # of the replay, shared by all runs that are compared
    alone: Link  # fitted to this run by itself

    def trace(self, clock: str) -> Trace:
        """The run on one of the two clocks."""
        return self.done.trace if clock == "wall" else self.done.own

    def use(self, clock: str) -> Use:
        """What a step of it takes on that clock."""
        return use(self.trace(clock))


def keep(run: Follower, done: Finished) -> None:
    """Remember a finished run; the oldest goes when there are too many."""
    runs: list[Kept] = st.session_state.setdefault("data_parallel.runs", [])
    if done.trace.spans and all(kept.name != run.asked.name for kept in runs):
        number = runs[-1].number + 1 if runs else 1
        plan = run.asked.request.plan
        link = fit_link(done.trace, program_of(plan))
        runs.append(Kept(number, run.asked.name, plan, done, link, link))
        del runs[:-MOST]


def _bytes_a_step(run: Kept) -> float:
    """What all ranks together were counted to send in a step."""
    wire = run.done.report["ledger"]["wire"]["measured_total_bytes"]
    return float(wire) / max(len(run.done.report["steps"]), 1)


def sent(runs: list[Kept]) -> str:
    """What the last run of each method was counted to send in a step, all ranks together."""
    counted = {str(run.plan.dp_method): _bytes_a_step(run) for run in runs}
    if len(set(counted.values())) == 1:
        return (
            f"Both sent the same bytes a step, {next(iter(counted.values())):,.0f} over all ranks."
        )
    each = " and ".join(f"{name} {count:,.0f}" for name, count in counted.items())
    return f"They did not send the same bytes a step: {each} over all ranks."


def forget_all(page: str) -> None:
    """Forget every run of this session, the one that `page` follows too."""
    st.session_state["data_parallel.runs"] = []
    live.forget(page)


def alike(plan: Plan) -> list[Kept]:
    """The runs of the same model, ranks and batch: only how gradients are summed differs.

    All are replayed over the one link fitted to all of them, or their clocks would not compare.
    """
    runs: list[Kept] = st.session_state.get("data_parallel.runs", [])
    found = [kept for kept in runs if _but_for_the_sum(kept.plan) == _but_for_the_sum(plan)]
    names = [kept.name for kept in found]
    cached: tuple[list[str], list[Kept]] | None = st.session_state.get("data_parallel.level")
    if cached is None or cached[0] != names:
        cached = (names, on_one_link(found))
        st.session_state["data_parallel.level"] = cached
    return cached[1]


def on_one_link(runs: list[Kept]) -> list[Kept]:
    """The same runs, the replay of each over the one link fitted to all of them."""
    link = fit_link_of([(run.done.trace, program_of(run.plan)) for run in runs])
    return [
        replace(run, link=link, done=replace(run.done, own=_replayed(run, link))) for run in runs
    ]


def _replayed(run: Kept, link: Link) -> Trace:
    return replay(run.plan, program_of(run.plan), run.done.trace, link=link)


def contest(runs: list[Kept]) -> Contest | None:
    """The last naive and the last bucketed of `runs` on one link; None while one is missing."""
    last = {str(run.plan.dp_method): run for run in runs}
    if len(last) < 2:
        return None
    return Contest(
        wall={name: run.done.trace for name, run in last.items()},
        own={name: run.done.own for name, run in last.items()},
        link=runs[-1].link,
        alone={name: run.alone for name, run in last.items()},
    )


def _but_for_the_sum(plan: Plan) -> Plan:
    return plan.but(dp_method="bucketed", bucket_mb=1.0)


@dataclass(frozen=True)
class Basis:
    """What the model assumes of this machine: the law, and where it comes from."""

    law: Overlap
    rate: float
    source: str

    def step(self, plan: Plan) -> Trace:
        """One modelled step of `plan`."""
        return _modelled(plan, self.law.link(plan), self.rate)

    def dots(self, plan: Plan) -> list[Dot]:
        """Simulated: `plan` in every number of buckets it can have, its own as cut, and naive."""
        every = {messages_a_step(each): each for each in ladder(plan)}
        if plan.dp_method == DPMethod.BUCKETED:
            every[messages_a_step(plan)] = plan
        return [self._dot(each) for each in (*every.values(), plan.but(dp_method="naive"))]

    def _dot(self, plan: Plan) -> Dot:
        step = self.step(plan)
        spent, count = use(step), messages_a_step(plan)
        return Dot(
            messages=count,
            exposed=spent.exposed,
            kind=step.kind,
            overlaps=plan.dp_method == DPMethod.BUCKETED,
            hover=f"model: {count} messages, {spent.exposed:.2f} of {spent.comm:.2f} ms exposed",
        )


def basis(plan: Plan, runs: list[Kept], clock: str) -> Basis:
    """Fitted to `runs`, of `alike`, as far as they go; else assumed."""
    if not runs:
        cost = model_cost(plan)
        return Basis(overlap(plan, cost, ASSUMED), ASSUMED_RATE, "assumed before any run")
    last = runs[-1]
    assumed = overlap(plan, model_cost(plan), last.link)
    backward = fmean(run.use(clock).backward for run in runs) / 1e3
    rate = ASSUMED_RATE * assumed.backward / backward
    sent = [(messages_a_step(run.plan), run.use(clock).comm / 1e3) for run in runs]
    law = fitted(backward, sent)
    if law is None:
        return Basis(replace(assumed, backward=backward), rate, f"fitted from run #{last.number}")
    numbers = ", ".join(f"#{run.number}" for run in runs)
    return Basis(law, rate, f"fitted from runs {numbers}, {clock} clock{_rough(runs)}")


def _rough(runs: list[Kept]) -> str:
    """A warning, where the machine changed between runs more than a fit over all can carry."""
    betas = [run.alone.beta for run in runs]
    apart = max(betas) / min(betas)
    if apart <= MOST_APART:
        return ""
    return f"; rough: fitted to each run alone, their bandwidths differ by a factor {apart:.1f}"


@lru_cache(maxsize=128)
def _modelled(plan: Plan, link: Link, rate: float) -> Trace:
    return simulate(program_of(plan), model_cost(plan, rate=rate, link=link))


def measured_dot(run: Kept, clock: str) -> Dot:
    """The run as a dot: what of its communication was exposed."""
    spent, count = run.use(clock), messages_a_step(run.plan)
    return Dot(
        messages=count,
        exposed=spent.exposed,
        kind=run.trace(clock).kind,
        label=f"#{run.number}",
        overlaps=run.plan.dp_method == DPMethod.BUCKETED,
        hover=f"run #{run.number}, {run.plan.layout}: {count} messages, "
        f"{spent.exposed:.2f} of {spent.comm:.2f} ms exposed",
    )
