"""How a trace is to be read: what its seconds and its bytes stand for, and which colours it wears.

A schedule on paper is simulated in seconds that are beats and bytes that are microbatches in
flight; a run is not. The trace cannot tell, so whoever shows it says so:

    show(trace, unit="beats", memory="microbatches", cap=4, bubbles=figures_of(trace, order))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

from parallel_core.quantities import bytes_text, time_text

BEAT = 1_000_000_000
"""Nanoseconds of a simulated trace that are one beat: its times are given in seconds."""


class Bubbles(Protocol):
    """What is printed of a bubble: both `pipeline.figures.Figures` and `analysis.Bubble` are it."""

    @property
    def bubble_fraction(self) -> float:
        """Idle over all the time of all ranks."""
        ...

    @property
    def internal_fraction(self) -> float:
        """The same, fill and drain left out."""
        ...


class Reading(TypedDict, total=False):
    """The keywords of every view of a trace; each may be left out.

    `unit` is what a second is called, `memory` what a byte stands for, `cap` the most of it a rank
    may hold (drawn as a line), `bubbles` the numbers printed beside warm-up, steady and drain (in a
    race one a name), `colours` those that were tested to be told apart, or like the papers'.
    """

    unit: Literal["time", "beats"]
    memory: Literal["bytes", "microbatches"]
    cap: float
    bubbles: Bubbles | dict[str, Bubbles]
    colours: Literal["tested", "paper"]


@dataclass(frozen=True, kw_only=True)
class Units:
    """Times and memory in words. `share` is what one byte of the trace is of a microbatch."""

    beats: bool = False
    microbatches: bool = False
    share: float = 1.0

    @classmethod
    def of(cls, reading: Reading, share: float = 1.0) -> Units:
        """The units that a view was asked for."""
        return cls(
            beats=reading.get("unit") == "beats",
            microbatches=reading.get("memory") == "microbatches",
            share=share,
        )

    def time(self, ns: float, scale: float | None = None) -> str:
        """Nanoseconds as "27 beats", or as "3.10 ms" in the unit that fits `scale`."""
        return counted(ns / BEAT, "beat") if self.beats else time_text(ns, scale)

    def held(self, count: float) -> str:
        """What a trace counts as bytes, as "4 microbatches" or "12.4 MiB"."""
        return counted(count * self.share, "microbatch") if self.microbatches else bytes_text(count)

    def as_data(self) -> dict[str, Any]:
        """Ready for JSON: nanoseconds a beat and microbatches a byte, 0 where neither is meant."""
        return {
            "beat": BEAT if self.beats else 0,
            "share": self.share if self.microbatches else 0,
        }


def counted(number: float, noun: str) -> str:
    """A number of things, at most two digits after the point: "1 beat", "2.5 beats".

    Rounded half up, as the player's JavaScript does, so that both say the same.
    """
    text = f"{math.floor(number * 100 + 0.5) / 100:g}"
    plural = noun if text == "1" else f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{text} {plural}"


def bubble_text(bubbles: Bubbles) -> str:
    """Both fractions in words: "bubble 27.3 %, 15.8 % between a rank's own first and last"."""
    whole, internal = 100 * bubbles.bubble_fraction, 100 * bubbles.internal_fraction
    return f"bubble {whole:.1f} %, internal {internal:.1f} %"
