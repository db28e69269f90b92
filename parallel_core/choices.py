"""The words that fields of a Plan take, and what stands for "nothing"."""

from __future__ import annotations

from enum import StrEnum
from itertools import permutations

NONE = "none"
"""The nearest value of a field that had better be left out."""

OWN = "own"
"""The schedule that the reader brings along."""

MOST_TASKS = 1 << 16
"""Microbatches times stages of a pipeline that is to be run; `shardlab schedule` takes more."""

IGNORED = -100
"""The label of a token that counts in no loss."""


RANK_ORDERS = tuple(
    "-".join(order).replace("dp", "cp-dp") for order in permutations(("tp", "dp", "pp"))
)
"""Which ranks are neighbours: the axes from the innermost out, cp always inside dp."""


class Recompute(StrEnum):
    """What a backward computes again instead of having kept it (activations/recompute.py)."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


class Server(StrEnum):
    """Who sums gradients instead of the ranks themselves (data/parameter_server.py)."""

    OFF = "off"
    SYNC = "sync"
    ASYNC = "async"


class DPMethod(StrEnum):
    """How data-parallel ranks sum their gradients (data/naive.py, data/bucketed.py)."""

    NAIVE = "naive"
    BUCKETED = "bucketed"


class Balance(StrEnum):
    """What keeps experts evenly loaded: nothing, a loss of the router's own, or a bias that loads
    move (expert/routing.py)."""

    NONE = "none"
    AUX = "aux"
    BIAS = "bias"


class RouterKind(StrEnum):
    """Who chooses, and whether there is room for all (expert/routing.py)."""

    DROPLESS = "dropless"
    CAPACITY = "capacity"
    EXPERT_CHOICE = "expert-choice"


class Score(StrEnum):
    """What makes a router's logits comparable."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
