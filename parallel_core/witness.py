"""What a rank says of its memory and its weights while it trains, for its owner to compare.

After every instruction it reads the bytes that are alive, after every step it hashes the weights
that other ranks hold as well (replicas.py).
"""

from __future__ import annotations

from functools import partial

from parallel_core.gauge import Alive, Gauge, digest
from parallel_core.kernels import TrainKernels
from parallel_core.plan import Server
from parallel_core.rank import Rank
from parallel_core.replicas import replicas
from parallel_core.zero_kernels import ZeroKernels


class Witness:
    """One rank's. `note` is what lanes tell of every end, None where nothing is measured."""

    def __init__(self, kernels: TrainKernels) -> None:
        self._kernels = kernels
        self._gauge = _gauge(kernels)
        self.note = self._gauge.note if self._gauge else None

    @property
    def peak(self) -> dict[str, int] | None:
        """The most bytes at a moment so far, by kind and in all."""
        return self._gauge.alive.peak if self._gauge else None

    def tell(self, rank: Rank, step: int) -> None:
        """Emit what was seen in a step that has just ended."""
        if self._gauge is not None:
            rows, self._gauge.rows = self._gauge.rows, []
            rank.emit({"event": "gauge", "rank": rank.rank, "rows": rows})
        if any(rank.rank in group for group in replicas(self._kernels.plan)):
            told = digest(self._kernels.state()["params"])
            rank.emit({"event": "replica", "rank": rank.rank, "step": step, "digest": told})


def _gauge(kernels: TrainKernels) -> Gauge | None:
    """None where weights come and go in ways that outline.py does not follow."""
    if kernels.plan.pp > 1 or kernels.plan.parameter_server != Server.OFF:
        return None
    if isinstance(kernels, ZeroKernels):
        alive = kernels.alive
    else:
        alive = Alive()
        alive.watch("params", kernels.flat.params)
        alive.watch("grads", kernels.flat.grads)
    keeper = kernels.keeper
    keeper.look = partial(alive.notice, "activations")
    keeper.over, keeper.over_again = alive.bytes, alive.look
    keeper.leaving = alive.leaving
    keeper.look_at_host = partial(alive.watch, "host")
    return Gauge(alive, kernels.update.tensors)
