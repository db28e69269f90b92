"""What is compared: layouts as a reader writes them, on one model and one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parallel_core.fields import PlanError, shown, validate, whole
from parallel_core.machine import check_bears
from parallel_core.plan import LAYOUT, Plan, flat_fields

ALONE = "dp=1"
"""One process, in the words of a layout: what most expectations are held against."""

USUAL = (
    ALONE,
    "dp=4",
    "dp=4,zero=3",
    "tp=4",
    "tp=2,dp=2",
    "cp=4",
    "pp=4,schedule=gpipe",
    "pp=4",
    "pp=4,schedule=zb-h1",
)
"""The layouts that are compared where none are given."""

BASE: dict[str, Any] = {"global_batch": 16}
"""What all of them train, unless told: the batch would else follow from the number of stages."""

MOST = 16
"""Layouts that one table holds."""


@dataclass(frozen=True)
class Contender:
    """One layout, by the words it was asked for in."""

    name: str
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Turns:
    """How long layouts are measured. The first step of a turn warms up and is left out."""

    steps: int = whole(6, 2, 1000, "steps a turn; the first of them is left out")
    rounds: int = whole(3, 1, 100, "rounds: in each, every layout has a turn")

    def __post_init__(self) -> None:
        validate(self)


def contenders(
    layouts: Iterable[str], base: Mapping[str, Any], *, also: Sequence[str] = ()
) -> list[Contender]:
    """The layouts on the fields of `base`; PlanError says which cannot be, and what is near.

    A layout may name fields that say how a step is split, and those in `also`; what is trained
    stands in `base` and is the same for all.
    """
    found: dict[str, Contender] = {}
    for text in layouts:
        fields = {**BASE, **base, **read(text, also)}
        found.setdefault(text, Contender(text, Plan.of(**fields)))
    if len(found) > MOST:
        raise PlanError("layouts", len(found), f"are more than a table of {MOST} holds", MOST)
    return list(found.values())


def read(text: str, also: Sequence[str] = ()) -> dict[str, str]:
    """The fields of a layout in words.

    >>> read("pp=4, schedule=zb-h1")
    {'pp': '4', 'schedule': 'zb-h1'}
    """
    fields = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in word.partition("="))
        name = name.replace("-", "_")
        if not equals:
            raise PlanError("layout", shown(text), "must be fields and values", '"tp=2,dp=2"')
        if name in flat_fields() and name not in (*LAYOUT, *also):
            rule = "says what is trained, which all layouts share: give it once, as an option"
            raise PlanError("layout", shown(text), f"names {name}, which {rule}", ALONE)
        fields[name] = value
    return fields


def borne(found: Sequence[Contender]) -> Sequence[Contender]:
    """The same, if this machine bears each of them; else PlanError."""
    for each in found:
        check_bears(each.plan)
    return found
