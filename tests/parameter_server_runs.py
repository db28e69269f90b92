"""Plans of parameter servers, and how the tests run them: several at once, followed as they go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from parallel_core.launch import Pool
from parallel_core.parameter_server_report import ServerView, view_of
from parallel_core.plan import Plan
from parallel_core.trace import Span

TINY = {"layers": 2, "hidden": 16, "heads": 4, "seq": 8, "vocab": 32, "dtype": "float64"}
LLAMA = {"dialect": "llama", "kv_heads": 2, "optimizer": "sgd"}
GPT = {"dialect": "gpt", "dropout": 0.1, "optimizer": "adamw", "tied": True}
DRESSES = {"llama": LLAMA, "gpt": GPT}


def plan_of(kind: str, **more: Any) -> Plan:
    dress = {} if "dialect" in more else LLAMA
    fields = {"dp": 4, "global_batch": 8, "parameter_server": kind, **TINY, **dress, **more}
    return Plan.of(**fields)


@dataclass(frozen=True)
class Asked:
    """A run for the tests: its plan, its steps, and what else goes to `train`."""

    plan: Plan
    steps: int = 3
    more: tuple[tuple[str, Any], ...] = ()

    @property
    def args(self) -> dict[str, Any]:
        return {"plan": self.plan.flat(), "steps": self.steps, **dict(self.more)}


def asked(plan: Plan, steps: int = 3, **more: Any) -> Asked:
    return Asked(plan, steps, tuple(more.items()))


class Ran(NamedTuple):
    """How a run went: followed, and reported."""

    view: ServerView
    report: dict[str, Any]
    results: list[dict[str, Any]]

    @property
    def parity(self) -> dict[str, Any]:
        return self.report["parity"]

    def spans(self, op: str, where: str, rank: int | None = None) -> list[Span]:
        """Those of the trace, in order of start."""
        found = [s for s in self.view.trace.spans if (s.op, s.where) == (op, where)]
        return sorted((s for s in found if rank in (s.rank, None)), key=lambda s: s.t_start)


def run_all(pool: Pool, runs: dict[str, Asked]) -> dict[str, Ran]:
    """Runs of one world size, one after another by the same processes."""
    (world,) = {one.plan.world_size for one in runs.values()}
    views = [view_of(one.plan) for one in runs.values()]
    at = [0] * world
    args = {"runs": [one.args for one in runs.values()]}
    with pool.start("parameter_server_targets:train_all", world, args) as going:
        for event in going.events():
            if event["event"] == "run":
                at[event["rank"]] = event["number"]
            else:
                views[at[event["rank"]]].feed(event)
        by_rank = going.wait(timeout=120)
    found = {}
    for number, name in enumerate(runs):
        view, results = views[number], [every[number] for every in by_rank]
        assert isinstance(view, ServerView)
        found[name] = Ran(view, view.finish(results), results)
    return found
