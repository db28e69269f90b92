"""What a reader may type into a field, and the one sentence they get when it does not work.

A frozen dataclass declares each field once: its default, its range or choices and its meaning.
The command line, the pages and the tests all read that declaration, so a rule stands in one place.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable
from dataclasses import MISSING, Field, field, fields
from typing import Any


class PlanError(ValueError):
    """A choice that cannot be run: which field, which value, which rule, what works instead."""

    def __init__(self, name: str, value: object, rule: str, nearest: object) -> None:
        self.field, self.value, self.rule, self.nearest = name, value, rule, nearest
        super().__init__(f"{name}={value} {rule}; the nearest value that works is {nearest}")


def shown(value: object) -> str:
    """A typed value in a sentence: quoted, on one line and short, whatever it was."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # Python refuses to write out integers beyond 4,300 digits
        return "an enormous number"


def whole(default: int | None, low: int, high: int, text: str) -> Any:
    """A whole-number field from `low` to `high`; None as default means "derived"."""
    return field(default=default, metadata={"kind": int, "low": low, "high": high, "help": text})


def real(default: float | None, low: float, high: float, text: str) -> Any:
    """A real-number field from `low` to `high`, both allowed."""
    return field(default=default, metadata={"kind": float, "low": low, "high": high, "help": text})


def choice(default: str, options: Iterable[str], text: str) -> Any:
    """A field that takes one of a few words; the first sentence of `text` is its help."""
    return field(default=default, metadata={"kind": str, "choices": tuple(options), "help": text})


def words(default: str | None, text: str) -> Any:
    """A field that takes free text; what it must say is checked where it is read."""
    return field(default=default, metadata={"kind": str, "help": text})


def switch(default: bool, text: str) -> Any:
    """A yes/no field."""
    return field(default=default, metadata={"kind": bool, "help": text})


def parse(spec: Field[Any], value: object) -> Any:
    """`value` (typed by a person, or read from JSON or a URL) as the field's own type.

    Raises PlanError for a wrong type, a word that is no choice, or a number out of range.
    """
    meta, name = spec.metadata, spec.name
    if spec.default is None and (value is None or value == "none"):
        return None
    if "choices" in meta:
        return _one_of(name, value, meta["choices"])
    if meta["kind"] is bool:
        return _yes_or_no(name, value, spec)
    if meta["kind"] is str:
        return _text(name, value)
    return _number(name, value, spec)


def _one_of(name: str, value: object, options: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in options:
        return _text(name, value)
    rule = f"must be one of {', '.join(options)}"
    raise PlanError(name, shown(value), rule, _like(value, options))


def _like(value: object, options: Iterable[str]) -> str:
    """The option that looks most like `value`."""
    return str(difflib.get_close_matches(shown(value).lower(), options, n=1, cutoff=0.0)[0])


def _yes_or_no(name: str, value: object, spec: Field[Any]) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise PlanError(name, shown(value), "must be true or false", str(spec.default).lower())


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise PlanError(name, shown(value), "must be text", "none")
    return value


def _number(name: str, value: object, spec: Field[Any]) -> float | int:
    kind, low, high = spec.metadata["kind"], spec.metadata["low"], spec.metadata["high"]
    noun = "a whole number" if kind is int else "a number"
    rule = f"must be {noun} from {low:,} to {high:,}"
    number = _read(value)
    if number is None:
        default = spec.default if spec.default not in (None, MISSING) else low
        raise PlanError(name, shown(value), rule, default)
    if not low <= number <= high:
        raise PlanError(name, f"{number:.15g}", rule, low if number < low else high)
    if kind is int and number != int(number):
        raise PlanError(name, number, rule, round(number))
    return int(number) if kind is int else number


def _read(value: object) -> float | None:
    """The number that was meant; None where none was."""
    if isinstance(value, bool):
        return None
    try:
        number = float(str(value).strip().replace("_", ""))
    except ValueError:
        return None
    return None if math.isnan(number) else number


def validate(thing: object) -> None:
    """Give every field of a frozen dataclass its own type and range; called in __post_init__."""
    for spec in fields(thing):  # type: ignore[arg-type]
        if spec.metadata:
            object.__setattr__(thing, spec.name, parse(spec, getattr(thing, spec.name)))


def unknown(name: str, known: Iterable[str]) -> PlanError:
    """The error for a field that does not exist, with the closest one that does."""
    options = list(known)
    return PlanError("field", shown(name), "is not a field of this plan", _like(name, options))


def nearest_where(value: int, options: Iterable[int]) -> int:
    """The member of `options` closest to `value`, the smaller of two equally close."""
    return min(options, key=lambda option: (abs(option - value), option))
