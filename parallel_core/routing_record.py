"""What the routers of a run decided, told by its ranks: loads of experts, drops, bytes that follow.

One row a rank, step, microbatch and layer: how many tokens asked for each expert, how many went.
From it come the loads of a run, and to the byte what its dispatches and combines handed over: how
tokens split is no choice of a plan, but the traffic that follows from it is predicted all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parallel_core.activations.expert_rows import Load, LoadOf, even
from parallel_core.expert.ways import ACROSS, INSIDE, WHOLE
from parallel_core.ledger import Counts
from parallel_core.plan import DType, Plan


@dataclass(frozen=True, kw_only=True)
class Routed:
    """One decision: of which rank, step, microbatch and layer; by expert, rows that were asked for
    and rows that went. `tokens` are [position, expert, went] of a few."""

    rank: int
    step: int
    mb: int
    layer: int
    asked: tuple[int, ...]
    kept: tuple[int, ...]
    tokens: tuple[tuple[int, int, int], ...] = ()


@dataclass
class RoutingRecord:
    """All decisions of a run, as they come in."""

    plan: Plan
    rows: list[Routed] = field(default_factory=list)

    def feed(self, rank: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take what a rank tells of a step."""
        for row in rows:
            made: dict[str, Any] = {key: tuple(row[key]) for key in ("asked", "kept")}
            made |= {key: row[key] for key in ("step", "mb", "layer")}
            made["tokens"] = tuple((s, e, went) for s, e, went in row["tokens"])
            self.rows.append(Routed(rank=rank, **made))

    def loads(self, *, step: int, layer: int, kept: bool = True) -> list[int]:
        """Rows of each expert in a step and layer, over all ranks that see different tokens."""
        total = [0] * self.plan.model.experts
        for row in self.rows:
            if (row.step, row.layer) == (step, layer) and self._speaks(row.rank):
                for e, count in enumerate(row.kept if kept else row.asked):
                    total[e] += count
        return total

    def rank_loads(self, *, step: int, layer: int) -> list[int]:
        """The same by the rank of an ep group that holds the experts, neighbours together."""
        loads = self.loads(step=step, layer=layer)
        return [sum(loads[self.plan.experts_of(place)]) for place in range(self.plan.ep)]

    def _speaks(self, rank: int) -> bool:
        """Tensor-parallel ranks all see the same tokens: the first tells of them."""
        return self.plan.mesh.coordinate(rank).get("tp", 0) == 0

    def dropped(self, *, step: int) -> tuple[int, int]:
        """(choices that no expert took, all choices) of a step."""
        rows = [r for r in self.rows if r.step == step and self._speaks(r.rank)]
        asked = sum(sum(row.asked) for row in rows)
        return asked - sum(sum(row.kept) for row in rows), asked

    def traffic(self) -> dict[tuple[int, int, int, int], Load]:
        """(rank, step, microbatch, layer) -> rows that its tokens made and that its experts got."""
        plan = self.plan
        met: dict[tuple[int, int, int, int], list[Routed]] = defaultdict(list)
        for row in self.rows:
            group = plan.mesh.group(row.rank, "ep") if plan.ep > 1 else (row.rank,)
            met[group[0], row.step, row.mb, row.layer].append(row)
        found = {}
        for (_, *when), rows in met.items():
            step, mb, layer = when
            for row in rows:
                place = plan.mesh.coordinate(row.rank).get("ep", 0)
                mine = plan.experts_of(place)
                came = sum(sum(other.kept[mine]) for other in rows)
                found[row.rank, step, mb, layer] = Load(sum(row.kept), came)
        return found

    def loads_of(self) -> Callable[[int, int], LoadOf] | None:
        """(rank, step) -> the loads of its microbatches and layers, even ones where nothing was
        told; None where nothing was told at all."""
        found, usual = self.traffic(), even(self.plan)

        def of(rank: int, step: int) -> LoadOf:
            return lambda mb, layer: found.get((rank, step, mb, layer), usual)

        return of if found else None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were told of."""
        return tuple(sorted({row.step for row in self.rows}))

    def sent(self) -> dict[str, list[int]]:
        """Bytes that each rank handed over along each axis in dispatches and combines, forward and
        backward: with two hops, what stands between them is handed over twice as well."""
        plan, width = self.plan, self.plan.model.hidden * DType(self.plan.dtype).bytes
        axes = [WHOLE] if plan.ep_node is None else [INSIDE, ACROSS]
        total = {axis: [0] * plan.world_size for axis in axes}
        between = self._between() if len(axes) > 1 else {}
        for key, load in self.traffic().items():
            stops = [load.sent, *([between[key]] if between else []), load.here]
            for axis, start, end in zip(axes, stops, stops[1:], strict=False):
                total[axis][key[0]] += 2 * (start + end) * width
        return total

    def _between(self) -> dict[tuple[int, int, int, int], int]:
        """Rows that a rank has between two hops: of its node's, those for ranks at its place."""
        plan, found = self.plan, dict[tuple[int, int, int, int], int]()
        node, each = plan.ep_node or 1, plan.experts_here
        rows = {(r.rank, r.step, r.mb, r.layer): r.kept for r in self.rows}
        for rank, *when in rows:
            place = plan.mesh.coordinate(rank)[INSIDE]
            mine = [e for e in range(plan.model.experts) if e // each % node == place]
            group = plan.mesh.group(rank, INSIDE)
            step, mb, layer = when
            kept = [rows[member, step, mb, layer] for member in group]
            found[rank, step, mb, layer] = sum(one[e] for one in kept for e in mine)
        return found

    def corrected(self, counts: Sequence[Counts], usual: int) -> list[Counts]:
        """Predicted messages with the bytes of this routing in the place of even ones: `usual` is
        what a rank's share of rows was taken to be in each of them."""
        table = [dict(count) for count in counts]
        for axis, ranks in self.sent().items():
            for count, sent in zip(table, ranks, strict=True):
                if (axis, "all_to_all") not in count:  # its stages have no layer
                    continue
                messages, total = count[axis, "all_to_all"]
                fifth = messages // 5  # counts once, rows four times
                count[axis, "all_to_all"] = (messages, total - 4 * fifth * usual + sent)
        return list(table)

    def report(self) -> dict[str, Any] | None:
        """Loads, imbalance and drops step by step, JSON-ready; None without experts."""
        if not self.rows:
            return None
        layers = sorted({row.layer for row in self.rows})
        steps = []
        for step in sorted({row.step for row in self.rows}):
            loads = [self.loads(step=step, layer=layer) for layer in layers]
            ranks = [self.rank_loads(step=step, layer=layer) for layer in layers]
            lost, asked = self.dropped(step=step)
            steps.append(
                {
                    "step": step,
                    "loads": loads,
                    "rank_loads": ranks,
                    "imbalance": max(map(imbalance, loads)),
                    "rank_imbalance": max(map(imbalance, ranks)),
                    "dropped": lost,
                    "asked": asked,
                }
            )
        return {
            "what": "rows of each expert (of each ep rank) by layer; imbalance is the largest over"
            " the mean, of the worst layer",
            "layers": layers,
            "steps": steps,
        }


def imbalance(loads: Sequence[int]) -> float:
    """The largest load over the mean; 1 where all are equal, or none has any."""
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0
