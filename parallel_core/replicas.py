"""Which ranks hold the same weights, and whether they still do: one hash a rank and step.

Data-parallel ranks hold all weights. With zero=3 a rank holds shards, and only HSDP keeps each
shard more than once: between the groups. Hashes travel as events, beside the run, and are compared
by its owner.
"""

from __future__ import annotations

from typing import Any

from parallel_core.plan import Plan, Server


def replicas(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Groups of ranks whose weights must be equal to the bit after every step; none in pipelines
    and beside a parameter server, where weights change inside the step."""
    if plan.pp > 1 or plan.parameter_server != Server.OFF:
        return ()
    if plan.zero < 3:
        axis = plan.expert_axis  # dp, or where experts are shared out those with the same ones
        groups = list(plan.mesh.groups(axis)) if axis else []
    else:
        groups = [] if plan.shard_axis == "dp" else list(plan.mesh.groups("replica"))
    return tuple(group for group in groups if len(group) > 1)


class Replicas:
    """Compares the hashes of a run's ranks, step by step."""

    def __init__(self, plan: Plan) -> None:
        self._groups = replicas(plan)
        self._seen: dict[int, dict[int, str]] = {}

    def feed(self, step: int, rank: int, digest: str) -> None:
        """The hash of one rank's weights after a step."""
        self._seen.setdefault(step, {})[rank] = digest

    def report(self) -> dict[str, Any] | None:
        """{"equal", "steps", "groups", "first_difference"}; None where no weight is held twice.

        `steps` are those that all ranks have told of. The first difference is a sentence, or None.
        """
        if not self._groups:
            return None
        ranks = {rank for group in self._groups for rank in group}
        steps = sorted(step for step, told in self._seen.items() if ranks <= told.keys())
        found = next((text for step in steps for text in self._differences(step)), None)
        return {
            "what": "SHA-256 of the weights that ranks hold alike, after every step",
            "equal": found is None,
            "steps": len(steps),
            "groups": [list(group) for group in self._groups],
            "first_difference": found,
        }

    def _differences(self, step: int) -> list[str]:
        told = self._seen[step]
        return [
            f"after step {step} the weights of rank {rank} are not those of rank {group[0]}"
            for group in self._groups
            for rank in group[1:]
            if told[rank] != told[group[0]]
        ]
