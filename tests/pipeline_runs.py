"""Pipelines run for the tests: many plans by the same processes, each with its spans and ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from parallel_core.cases import program_of
from parallel_core.launch import Pool
from parallel_core.pipeline import SCHEDULES
from parallel_core.plan import Plan, PlanError
from parallel_core.program import Instr, Program
from parallel_core.recording import Expander
from parallel_core.report import ledger
from parallel_core.trace import Span

STEPS = 3
TINY = {"hidden": 16, "heads": 4, "seq": 8, "vocab": 32, "dtype": "float64"}
GPT = {"dialect": "gpt", "dropout": 0.1, "optimizer": "adamw"}
LLAMA = {"dialect": "llama", "kv_heads": 2, "optimizer": "sgd"}


@dataclass(frozen=True)
class Ran:
    """One plan as it ran: what every rank returned, and the notes it wrote."""

    plan: Plan
    results: tuple[dict[str, Any], ...]
    notes: tuple[tuple[list[int], ...], ...]

    @cached_property
    def program(self) -> Program:
        return program_of(self.plan)

    @cached_property
    def ledger(self) -> dict[str, Any]:
        return ledger(self.plan, self.results, len(self.results[0]["metrics"]))

    @property
    def parity(self) -> dict[str, Any]:
        return self.results[0]["parity"]

    @cached_property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """The spans of each rank, by step and start."""
        expander = Expander(self.program)
        rows = (expander.spans(rank, notes) for rank, notes in enumerate(self.notes))
        return tuple(tuple(sorted(r, key=lambda s: (s.step, s.t_start, s.t_done))) for r in rows)

    def instr(self, span: Span) -> Instr:
        return self.program.ranks[span.rank][span.index]

    def steps(self) -> Iterator[tuple[int, int, list[Span]]]:
        """Every (rank, step, its spans)."""
        for rank, spans in enumerate(self.spans):
            for step in sorted({span.step for span in spans}):
                yield rank, step, [span for span in spans if span.step == step]


def run_all(pool: Pool, plans: Sequence[Plan], steps: int = STEPS, **more: Any) -> list[Ran]:
    """Runs plans of one world size; `more` goes to runtime.train."""
    world = {plan.world_size for plan in plans}
    assert len(world) == 1
    (n,) = world
    notes: list[list[list[Any]]] = [[[] for _ in range(n)] for _ in plans]
    at = [0] * n
    args = {"plans": [plan.flat() for plan in plans], "steps": steps, **more}
    with pool.start("pipeline_targets:train_all", n, args) as run:
        for event in run.events():
            if event["event"] == "plan":
                at[event["rank"]] = event["number"]
            elif event["event"] == "notes":
                notes[at[event["rank"]]][event["rank"]] += event["notes"]
        by_rank = run.wait()
    return [
        Ran(plan, tuple(results[i] for results in by_rank), tuple(map(tuple, notes[i])))
        for i, plan in enumerate(plans)
    ]


def legal(p: int) -> list[tuple[str, int]]:
    """Every (schedule, microbatches) that p ranks allow, m from 4 to 8."""
    return [(name, m) for name in SCHEDULES for m in range(4, 9) if _allowed(name, p, m)]


def _allowed(schedule: str, p: int, m: int) -> bool:
    try:
        Plan.of(pp=p, schedule=schedule, microbatches=m, global_batch=m, layers=8)
    except PlanError:
        return False
    return True


def dressed(schedule: str, p: int, m: int, dress: int, **more: Any) -> Plan:
    """A schedule on a tiny model: with `dress` change dialect, tie, optimizer and the cut."""
    asynchronous = SCHEDULES[schedule].asynchronous
    model = (LLAMA, GPT)[dress % 2] | {"tied": dress in (1, 2) and not asynchronous}
    given = {"pp": p, "schedule": schedule, "microbatches": m, "global_batch": m, **TINY, **model}
    plan = Plan.of(**{"layers": 6, **given, **more})
    stages = plan.pipeline.stages
    if dress % 2:
        layers = [2, *[1] * (stages - 2), 0]
        cut = ",".join(map(str, layers))
        plan = plan.but(layers=sum(layers), stage_layers=cut)
    return plan
