"""A visit to one exhibit as a reader asks for it, ready for a Pool: `pool.start(*visit.order)`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from parallel_core.fields import choice, switch, validate, whole
from parallel_core.machine import check_bears
from parallel_core.museum.exhibit import Exhibit
from parallel_core.museum.exhibits import EXHIBITS
from parallel_core.plan import Plan

TARGET = "parallel_core.museum.ranks:visit"
PRELOAD = ("parallel_core.museum.ranks",)
RIGHT, PLANTED, OTHER = "right", "with the bug", "another seed"
TRAININGS = (RIGHT, PLANTED, OTHER)
OPTIMIZERS = {"both": ("adamw", "sgd"), "adamw": ("adamw",), "sgd": ("sgd",)}


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One exhibit, trained with and without its bug.

    >>> Visit(bug="loss-times-cp", steps=3).plan("adamw", RIGHT).cp
    2
    """

    bug: str = choice("context-unsummed", EXHIBITS, "the exhibit")
    steps: int = whole(20, 1, 500, "training steps of each run")
    optimizer: str = choice("both", OPTIMIZERS, "AdamW hides errors of scale; SGD shows them")
    seed: int = whole(0, 0, 2**31 - 2, "seed of weights and data; the yardstick has the next")
    asleep: bool = switch(False, "change the layout to one on which the same wrong code is right")

    def __post_init__(self) -> None:
        validate(self)

    @property
    def exhibit(self) -> Exhibit:
        """What is visited."""
        return EXHIBITS[self.bug]

    @property
    def optimizers(self) -> tuple[str, ...]:
        """AdamW, SGD, or one after the other."""
        return OPTIMIZERS[self.optimizer]

    @property
    def trainings(self) -> tuple[str, ...]:
        """The runs of each optimizer."""
        return TRAININGS

    def plan(self, optimizer: str, which: str) -> Plan:
        """The plan of one training; none of its fields knows of the bug."""
        changed = self.exhibit.asleep if self.asleep else {}
        return self.exhibit.plan(optimizer, seed=self.seed + (which == OTHER), **changed)

    def checked(self) -> Visit:
        """The same visit, if this machine bears it; raises PlanError if not."""
        check_bears(self.plan(self.optimizers[0], RIGHT))
        return self

    @property
    def order(self) -> tuple[str, int, dict[str, Any]]:
        """Target, world size and arguments, as Pool.start and Jobs.submit take them."""
        ranks = self.plan(self.optimizers[0], RIGHT).world_size
        return TARGET, ranks, {"request": asdict(self)}

    def command(self) -> str:
        """The command line of the same visit."""
        said = f"shardlab museum --bug {self.bug}"
        for name, usual in (("steps", 20), ("optimizer", "both"), ("seed", 0)):
            said += f" --{name} {getattr(self, name)}" if getattr(self, name) != usual else ""
        return said + " --asleep" * self.asleep
