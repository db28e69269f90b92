"""As many colours as there are chunks: hues round a circle, light and dark in turn.

Equal steps of hue in OKLCH, neighbours told apart by lightness as well. No more than a handful
can be named at sight, so a tile always carries its number too. Ottosson 2020, Oklab.
"""

from __future__ import annotations

import math
from functools import lru_cache

_LIGHT = ((0.50, 0.13), (0.68, 0.14))  # lightness and chroma in turn, on a light page
_DARK = ((0.62, 0.13), (0.78, 0.12))
_FIRST = 255.0  # degrees: blue


@lru_cache(maxsize=32)
def hues(count: int) -> list[list[str]]:
    """`count` pairs of colours: on a light page, on a dark one."""
    return [[_colour(i, count, _LIGHT), _colour(i, count, _DARK)] for i in range(count)]


def _colour(i: int, count: int, ladder: tuple[tuple[float, float], ...]) -> str:
    lightness, chroma = ladder[i % 2]
    turn = math.radians(_FIRST + 360 * i / max(count, 1))
    red, green, blue = _linear(lightness, chroma * math.cos(turn), chroma * math.sin(turn))
    return "#" + "".join(f"{round(255 * _gamma(c)):02X}" for c in (red, green, blue))


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
