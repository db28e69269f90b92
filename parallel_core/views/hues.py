"""As many colours as there are chunks: a chosen eight, beyond them hues round a circle.

The eight come from a random search in OKLCH under palette.worst_pair, best first: any two of the
first four are at least 24 apart to every eye, any two of the eight 13. More than a handful cannot
be named at sight, so a tile always carries its number too. Oklab: Ottosson 2020.
"""

from __future__ import annotations

import math
from functools import lru_cache

CHOSEN = {
    False: ["#DA8D58", "#1C3984", "#949ED6", "#602C11", "#AD4962", "#6366B6", "#1FA090", "#536E20"],
    True: ["#E5848C", "#695FB4", "#ACBDF8", "#815B34", "#D1C64F", "#96860A", "#3C97AA", "#6ED8BF"],
}
"""On a light page, on a dark one."""

_LADDER = {False: ((0.50, 0.13), (0.68, 0.14)), True: ((0.62, 0.13), (0.78, 0.12))}
"""Lightness and chroma of the wheel, in turn: neighbours differ in lightness as well."""


@lru_cache(maxsize=32)
def hues(count: int) -> list[list[str]]:
    """`count` pairs of colours: on a light page, on a dark one."""
    if count <= len(CHOSEN[False]):
        return [[CHOSEN[False][i], CHOSEN[True][i]] for i in range(count)]
    return [[_colour(i, count, dark=dark) for dark in (False, True)] for i in range(count)]


def _colour(i: int, count: int, *, dark: bool) -> str:
    lightness, chroma = _LADDER[dark][i % 2]
    turn = 2 * math.pi * (i / count + 0.7)  # the first is blue
    linear = _linear(lightness, chroma * math.cos(turn), chroma * math.sin(turn))
    return "#" + "".join(f"{round(255 * _gamma(c)):02X}" for c in linear)


def _linear(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """Oklab to linear sRGB."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(linear: float) -> float:
    c = min(1.0, max(0.0, linear))
    return 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055
