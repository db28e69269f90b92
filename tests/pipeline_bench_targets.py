"""Targets with a planted fault, for test_bench_pipeline.py."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from parallel_core.bench import pipeline_ranks
from parallel_core.rank import Rank


def doubled(rank: Rank, **args: Any) -> dict[str, Any]:
    """The contest with a peer whose gradients are twice ours, its losses the same."""

    class Doubled(pipeline_ranks.Peer):
        def gradients(self) -> dict[str, Tensor]:
            return {name: 2 * grad for name, grad in super().gradients().items()}

    pipeline_ranks.Peer = Doubled  # in this rank's own process
    return pipeline_ranks.contend(rank, **args)
