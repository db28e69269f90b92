"""torch.distributed's own call for each collective, on the same inputs: the second opinion.

Its calls for shards want equal ones, so where chunks differ in size there is no such call, and
`peer` gives None; nor is there one for a shift to the neighbour, or for int16 on gloo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parallel_core.collectives import names as v
from parallel_core.collectives.group import Group
from parallel_core.collectives.ports import UNKNOWN_TO_GLOO
from parallel_core.program import Value


@dataclass
class Peer:
    """One op by torch: `prepare` makes fresh buffers (not timed), `call` runs it, `outputs` names
    what this rank got. `inputs` are this rank's values, `sizes` the elements of every chunk."""

    op: str
    group: Group
    rank: int
    inputs: Mapping[Value, Tensor]
    sizes: tuple[int, ...]
    like: Tensor
    buffer: Tensor = field(default_factory=lambda: torch.empty(0))
    pieces: list[Tensor] = field(default_factory=list)

    def prepare(self) -> None:
        """Copies of the inputs, since most calls work in place."""
        held = [self.inputs[value] for value in self.inputs]
        total = sum(self.sizes)
        self.buffer = torch.cat(held) if held else self.like.new_empty(total)
        each = self.sizes[0] if self.sizes else 0
        self.pieces = [self.like.new_empty(each) for _ in self.group.ranks]

    def call(self) -> None:
        """The collective itself."""
        n, root = self.group.n, self.group.root
        at_root = self.rank == root
        calls: dict[str, Callable[[], Any]] = {
            "broadcast": lambda: dist.broadcast(self.buffer, root),
            "reduce": lambda: dist.reduce(self.buffer, root),
            "all_reduce": lambda: dist.all_reduce(self.buffer),
            "all_gather": lambda: dist.all_gather(self.pieces, self.buffer),
            "gather": lambda: dist.gather(self.buffer, self.pieces if at_root else None, root),
            "scatter": lambda: dist.scatter(
                self.pieces[0], self._chunks() if at_root else None, root
            ),
            "reduce_scatter": lambda: dist.reduce_scatter(self.pieces[0], self._chunks()),
            "all_to_all": lambda: self._all_to_all(n),
            "barrier": dist.barrier,
        }
        calls[self.op]()

    def _chunks(self) -> list[Tensor]:
        return list(torch.split(self.buffer, list(self.sizes)))

    def _all_to_all(self, n: int) -> None:
        mine = self.sizes[self.rank]
        self.pieces = [self.like.new_empty(mine * n)]
        came = list(repeat(mine, n))
        dist.all_to_all_single(self.pieces[0], self.buffer, came, list(self.sizes))

    def outputs(self) -> dict[Value, Tensor]:
        """What this rank was given, by the names of the promise; empty where it gets nothing."""
        root, r = self.rank == self.group.root, self.rank
        match self.op:
            case "broadcast":
                return {v.x(c): piece for c, piece in enumerate(self._chunks())}
            case "all_reduce" | "reduce" if self.op == "all_reduce" or root:
                return {v.total(c): piece for c, piece in enumerate(self._chunks())}
            case "all_gather" | "gather" if self.op == "all_gather" or root:
                return {v.x(s): piece for s, piece in enumerate(self.pieces)}
            case "scatter":
                return {v.x(r): self.pieces[0]}
            case "reduce_scatter":
                return {v.total(r): self.pieces[0]}
            case "all_to_all":
                parts = torch.split(self.pieces[0], [self.sizes[r]] * self.group.n)
                return {v.block(r, s): part for s, part in enumerate(parts)}
        return {}


def peer(
    op: str,
    group: Group,
    rank: int,
    inputs: Mapping[Value, Tensor],
    *,
    sizes: tuple[int, ...],
    like: Tensor,
) -> Peer | None:
    """torch's side of `op` on tensors of the type of `like`, or None where it has no such call."""
    shards = op in ("all_gather", "gather", "scatter", "reduce_scatter")
    if op == "send_recv" or (shards and len(set(sizes)) > 1) or like.dtype in UNKNOWN_TO_GLOO:
        return None
    return Peer(op, group, rank, inputs, sizes, like)
