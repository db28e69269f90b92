"""The runs a reader made on the experts' page, with what their routers decided."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from parallel_core.plan import Plan
from parallel_core.routing_record import RoutingRecord
from parallel_core.views.expert_curves import Steps
from parallel_core.views.expert_rows import received
from parallel_core.views.expert_times import Share, shares
from parallel_core.views.outcome import typical_step
from screens import in_turn, live
from screens import shard_bench_runs as runs
from screens.experts_controls import PAGE

RECORDS = f"{PAGE}.records"


@dataclass(frozen=True)
class Ran:
    """A finished run and its routing."""

    kept: runs.Kept
    record: RoutingRecord

    @property
    def plan(self) -> Plan:
        """What ran."""
        return self.kept.plan

    @property
    def steps(self) -> Steps:
        """Loads and drops, step by step."""
        found: Steps = self.kept.done.report["experts"]["steps"]
        return found

    @property
    def handed(self) -> list[int]:
        """Bytes that each rank was counted to hand to its all-to-alls, in the whole run."""
        ops = self.kept.done.report["ledger"]["wire"]["measured"]["ep"]
        return list(ops["all_to_all"]["payload_bytes"])

    def shares(self, step: int | None = None) -> list[Share]:
        """Each rank's experts in a step, by default a typical one."""
        step = typical_step(self.kept.done.trace) if step is None else step
        rows = received(self.record, step=step)
        return shares(self.plan, self.kept.done.own, rows, step)


def current() -> live.Follower | None:
    """The run being followed; a finished one is kept, and the next that waits is started."""
    return in_turn.take(live.current(PAGE), PAGE, _keep)


def _keep(run: live.Follower, done: live.Finished) -> None:
    """Remember a finished run and its routing, as long as the run."""
    records: dict[str, RoutingRecord] = st.session_state.setdefault(RECORDS, {})
    records[run.asked.name] = run.view.routing
    runs.keep(run, done, PAGE)
    names = {kept.name for kept in st.session_state.get(f"{PAGE}.runs", [])}
    st.session_state[RECORDS] = {k: x for k, x in records.items() if k in names}


def latest(plan: Plan) -> Ran | None:
    """The last run of exactly this plan."""
    kept = runs.latest(plan, PAGE)
    record = st.session_state.get(RECORDS, {}).get(kept.name) if kept else None
    return Ran(kept, record) if kept and record else None


def forget_all() -> None:
    """Forget every run of this session."""
    st.session_state.pop(RECORDS, None)
    runs.forget_all(PAGE)
