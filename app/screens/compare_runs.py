"""The runs behind the measurement table: they wait for one another, round by round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import streamlit as st

from parallel_core.compare import curves, rounds
from parallel_core.compare.layouts import Contender, Turns
from parallel_core.compare.rate import TARGET, Rate, rate_of
from parallel_core.compare.table import table
from parallel_core.jobs import QueueFull, Status
from parallel_core.live import LiveRun
from parallel_core.request import Request
from screens import live

PAGE = "compare"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Turn:
    """One run of a comparison: whose."""

    name: str
    request: Request


@dataclass
class Going:
    """A comparison: who takes part, what still waits, what came of it so far."""

    found: list[Contender]
    turns: list[Turn]
    steps: int
    rounds: int  # 0: curves
    behind: int = 0
    losses: dict[str, list[float]] | None = None
    runs: dict[str, list[LiveRun]] | None = None

    @property
    def now(self) -> Turn | None:
        """Whose turn it is; None when all had theirs."""
        return self.turns[self.behind] if self.behind < len(self.turns) else None


def begin_table(found: Sequence[Contender], turns: Turns) -> None:
    """Ask for the first run of a table; the others wait."""
    every = [
        Turn(found[at].name, Request(plan=found[at].plan, steps=turns.steps, parity=False))
        for turn in rounds.order(len(found), turns.rounds)
        for at in turn
    ]
    runs: dict[str, list[LiveRun]] = {each.name: [] for each in found}
    _begin(Going(list(found), every, turns.steps, turns.rounds, runs=runs))


def begin_curves(found: Sequence[Contender], steps: int) -> None:
    """The same of curves."""
    every = [Turn(each.name, curves.Curve(plan=each.plan, steps=steps)) for each in found]
    _begin(Going(list(found), every, steps, 0, losses={}))


def _begin(going: Going) -> None:
    st.session_state[f"{PAGE}.going"] = going
    live.start(going.turns[0].request, PAGE)


def current() -> live.Follower | None:
    """The run being followed; a finished one is kept and the next begins."""
    run, going = live.current(PAGE), st.session_state.get(f"{PAGE}.going")
    if run is None or going is None:
        st.session_state.pop(f"{PAGE}.going", None)
        return None
    if run.going:
        return run
    done = live.ended(run)
    if done is None:  # cancelled or failed, and said so
        st.session_state.pop(f"{PAGE}.going")
        live.forget(PAGE)
        return None
    _keep(going, run, done)
    if going.now is None:
        _finish(going)
        return None
    live.start(going.now.request, PAGE)
    return run


def _keep(going: Going, run: live.Follower, done: live.Finished) -> None:
    name = going.turns[going.behind].name
    if going.runs is not None:
        going.runs[name].append(LiveRun(run.view, done.report))
    elif going.losses is not None:
        going.losses[name] = [float(row["loss"]) for row in done.report["steps"]]
    going.behind += 1


def _finish(going: Going) -> None:
    live.forget(PAGE)
    st.session_state.pop(f"{PAGE}.going")
    if going.runs is not None:
        turns = Turns(steps=going.steps, rounds=going.rounds)
        rate = rate_here(going.found[0].plan.dtype)
        st.session_state[f"{PAGE}.table"] = table(going.found, going.runs, turns, rate)
    elif going.losses is not None:
        st.session_state[f"{PAGE}.curves"] = curves.report(going.found, going.losses)


def words() -> str:
    """How far the comparison is."""
    going: Going = st.session_state[f"{PAGE}.going"]
    turn = going.turns[min(going.behind, len(going.turns) - 1)]
    return f"Run {going.behind + 1} of {len(going.turns)}: {turn.name}"


def found(what: str) -> dict[str, Any] | None:
    """The last "table" or "curves" of this session."""
    report: dict[str, Any] | None = st.session_state.get(f"{PAGE}.{what}")
    return report


def rate_here(dtype: str) -> Rate:
    """The peak of a device of this machine; unknown where it cannot be measured now."""
    try:
        return _rate(dtype)
    except (QueueFull, TimeoutError, RuntimeError) as error:
        return Rate("this machine", None, f"its peak could not be measured: {error}")


@lru_cache(maxsize=8)
def _rate(dtype: str) -> Rate:
    jobs = live.desk().jobs
    job, end = jobs.submit(TARGET, 1, {"dtype": dtype}), time.monotonic() + PATIENCE_S
    while not (state := jobs.state(job)).status.over:
        if time.monotonic() > end:
            jobs.cancel(job)
            raise TimeoutError(f"no answer within {PATIENCE_S:g} s")
        jobs.watch(job, PAGE)
        time.sleep(0.1)
    if state.status is not Status.DONE or not state.results:
        raise RuntimeError(state.error)
    (said,) = state.results
    return rate_of(said["device"], said["peak"], dtype)
