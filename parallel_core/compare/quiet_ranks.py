"""A training run that tells its losses and nothing else: for hundreds of steps."""

from __future__ import annotations

from typing import Any

from parallel_core import runtime
from parallel_core.rank import Rank

TOLD = frozenset({"progress"})


def train(rank: Rank, **args: Any) -> dict[str, Any]:
    """`runtime.train` of one rank; of what it emits, only its progress reaches the owner."""
    emit = rank.emit

    def told(event: dict[str, Any]) -> None:
        if event["event"] in TOLD:
            emit(event)

    rank.emit = told
    try:
        return runtime.train(rank, **args)
    finally:
        rank.emit = emit
