"""The colours of every figure, once: phases, tensor kinds, and how far apart they look.

Each colour has a second channel (a letter, a hatch), so that nothing is said by colour alone.

What is scored: every pair of the five phase colours that stand side by side in a timeline
(F, I, W, P2P, collective), and every pair of the five tensor kinds (parameters, gradients,
optimizer, activations, comm buffers), seen with normal vision and with the three dichromacies
of Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113, severity 1.0). The distance
is CIEDE2000 (Sharma, Wu and Dalal 2005, doi:10.1002/col.20070); the score is the worst pair.
The colours are those of the random search that the light set came from, except the parameters
on dark, which were searched again so that they also stand 3:1 against the page.
Not scored: recompute, optimizer step, other, KV cache, slack and waiting. They lean on texture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from parallel_core.program import COLLECTIVES, Op

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shade:
    """One meaning: its fill and the ink on it, on light and on dark, its letter and its hatch.

    `hatch` is "" (solid), "/" (diagonal), "." (dots), "|" (vertical), "x" (crosshatch) or
    "half" (the left half in the colour of I, the right half in the colour of W).
    """

    meaning: str
    light: str
    light_ink: str
    dark: str
    dark_ink: str = "#000000"
    letter: str = ""
    hatch: str = ""


_BLACK, _WHITE = "#000000", "#FFFFFF"

PHASES: dict[str, Shade] = {
    "F": Shade(meaning="forward", light="#064E8B", light_ink=_WHITE, dark="#4B74CE", letter="F"),
    "I": Shade(
        meaning="backward for the input",
        light="#CD4315",
        light_ink=_WHITE,
        dark="#E3652F",
        letter="I",
    ),
    "W": Shade(
        meaning="backward for the weights",
        light="#FCD14B",
        light_ink=_BLACK,
        dark="#F5EEB6",
        letter="W",
        hatch="/",
    ),
    "B": Shade(
        meaning="backward",
        light="#CD4315",
        light_ink=_WHITE,
        dark="#E3652F",
        letter="B",
        hatch="half",
    ),
    "P2P": Shade(meaning="send, receive", light="#DE6DD0", light_ink=_BLACK, dark="#CEA0C6"),
    "collective": Shade(meaning="collective", light="#0C9374", light_ink=_BLACK, dark="#26B788"),
    "recompute": Shade(
        meaning="recompute",
        light="#8FAFCB",  # F at 45 % on white
        light_ink=_BLACK,
        dark="#2C406C",  # F at 45 % on the dark page
        dark_ink=_WHITE,
        letter="R",
        hatch=".",
    ),
    "O": Shade(meaning="optimizer", light="#404040", light_ink=_WHITE, dark="#B0B0B0", letter="O"),
    "other": Shade(meaning="other work", light="#A3A9B2", light_ink=_BLACK, dark="#7E858F"),
}
"""Phase -> its colours, letter and hatch; the keys are what `phase_of` returns."""

PAPER: dict[str, Shade] = {
    "F": Shade(meaning="forward", light="#5B9BD5", light_ink=_BLACK, dark="#5B9BD5", letter="F"),
    "I": Shade(
        meaning="backward for the input",
        light="#9BD3D8",
        light_ink=_BLACK,
        dark="#9BD3D8",
        letter="I",
    ),
    "W": Shade(
        meaning="backward for the weights",
        light="#A9D18E",
        light_ink=_BLACK,
        dark="#A9D18E",
        letter="W",
        hatch="/",
    ),
    "B": Shade(meaning="backward", light="#70AD47", light_ink=_BLACK, dark="#70AD47", letter="B"),
}
"""The four in the manner of the papers' figures: blue forward, green backward. Nobody's default:
to many eyes B and W are one colour, and F and I nearly so. The letters and W's hatch stay."""

SCORED_PHASES = ("F", "I", "W", "P2P", "collective")

TENSORS: dict[str, Shade] = {
    "params": Shade(
        meaning="parameters", light="#1A305D", light_ink=_WHITE, dark="#2E6B8A", dark_ink=_WHITE
    ),
    "grads": Shade(meaning="gradients", light="#DC4204", light_ink=_BLACK, dark="#DC4204"),
    "optimizer": Shade(
        meaning="optimizer state", light="#F5D78F", light_ink=_BLACK, dark="#F5D78F"
    ),
    "activations": Shade(meaning="activations", light="#82D6D0", light_ink=_BLACK, dark="#82D6D0"),
    "comm_buffers": Shade(
        meaning="communication buffers", light="#CD64DF", light_ink=_BLACK, dark="#CD64DF"
    ),
    "kv_cache": Shade(
        meaning="KV cache", light="#82D6D0", light_ink=_BLACK, dark="#82D6D0", hatch="|"
    ),
    "slack": Shade(
        meaning="allocator slack", light="#B8BCC2", light_ink=_BLACK, dark="#7E858F", hatch="x"
    ),
}
"""Tensor kind -> its colours and hatch, for memory and sharding."""

SCORED_TENSORS = ("params", "grads", "optimizer", "activations", "comm_buffers")

VISIONS: dict[str, tuple[Vector, Vector, Vector]] = {
    "normal": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
"""Machado 2009, severity 1.0: what an eye makes of linear RGB, a 3 x 3 matrix each."""


def phase_of(op: str) -> str:
    """The key in PHASES that an op is drawn with; an op of another tool is "other"."""
    if op in COLLECTIVES:
        return "collective"
    if op in (Op.SEND, Op.RECV):
        return "P2P"
    return op if op in PHASES else "other"


def as_data() -> dict[str, Any]:
    """Both palettes, ready for JSON: the player and the pages draw from this."""
    return {
        "phases": {key: asdict(shade) for key, shade in PHASES.items()},
        "paper": {key: asdict(shade) for key, shade in PAPER.items()},
        "tensors": {key: asdict(shade) for key, shade in TENSORS.items()},
    }


def worst_pair(colours: Iterable[str]) -> tuple[float, str, str, str]:
    """The two colours hardest to tell apart: their CIEDE2000 distance, the vision, the pair."""
    pairs = list(combinations(colours, 2))
    return min(
        (delta_e(_lab(one, vision), _lab(two, vision)), vision, one, two)
        for vision in VISIONS
        for one, two in pairs
    )


def contrast(one: str, two: str) -> float:
    """The WCAG 2 contrast ratio of two colours, 1 to 21."""
    low, high = sorted(_luminance(colour) for colour in (one, two))
    return (high + 0.05) / (low + 0.05)


def mix(colour: str, other: str, share: float) -> str:
    """`share` of `colour` (0 to 1) laid over `other`, as #RRGGBB."""
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(255 * (a * share + b * (1 - share))):02X}" for a, b in pairs)


def _channels(colour: str) -> Vector:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _linear(colour: str) -> Vector:
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)
    )
    return red, green, blue


def _luminance(colour: str) -> float:
    return _dot((0.2126, 0.7152, 0.0722), _linear(colour))


def _dot(row: Vector, column: Vector) -> float:
    return sum(a * b for a, b in zip(row, column, strict=True))


def _lab(colour: str, vision: str) -> Vector:
    """CIELAB (D65) of `colour` as an eye with `vision` sees it."""
    rgb = _linear(colour)
    red, green, blue = (min(1.0, max(0.0, _dot(row, rgb))) for row in VISIONS[vision])
    seen = (red, green, blue)
    x = _dot((0.4124564, 0.3575761, 0.1804375), seen) / 0.95047
    y = _dot((0.2126729, 0.7151522, 0.0721750), seen)
    z = _dot((0.0193339, 0.1191920, 0.9503041), seen) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def delta_e(one: Vector, two: Vector) -> float:
    """The CIEDE2000 distance of two CIELAB colours; about 1 is just noticeable.

    The letters are those of Sharma, Wu and Dalal 2005, equations 2 to 22.
    """
    mean_c = (math.hypot(*one[1:]) + math.hypot(*two[1:])) / 2
    g = 0.5 * (1 - math.sqrt(mean_c**7 / (mean_c**7 + 25**7)))
    c1, h1 = _polar(one[1] * (1 + g), one[2])
    c2, h2 = _polar(two[1] * (1 + g), two[2])
    lightness, c = (one[0] + two[0]) / 2, (c1 + c2) / 2
    turn, h = _hues(h1, h2, grey=c1 * c2 == 0)

    dl, dc = two[0] - one[0], c2 - c1
    dh = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn) / 2)
    t = (
        1
        - 0.17 * math.cos(math.radians(h - 30))
        + 0.24 * math.cos(math.radians(2 * h))
        + 0.32 * math.cos(math.radians(3 * h + 6))
        - 0.20 * math.cos(math.radians(4 * h - 63))
    )
    sl = 1 + 0.015 * (lightness - 50) ** 2 / math.sqrt(20 + (lightness - 50) ** 2)
    sc, sh = 1 + 0.045 * c, 1 + 0.015 * c * t
    theta = math.radians(60 * math.exp(-(((h - 275) / 25) ** 2)))
    rt = -2 * math.sqrt(c**7 / (c**7 + 25**7)) * math.sin(theta)
    x, y, z = dl / sl, dc / sc, dh / sh
    return math.sqrt(x * x + y * y + z * z + rt * y * z)


def _polar(a: float, b: float) -> tuple[float, float]:
    return math.hypot(a, b), math.degrees(math.atan2(b, a)) % 360


def _hues(h1: float, h2: float, *, grey: bool) -> tuple[float, float]:
    """The turn from one hue to the other (degrees, the short way) and their mean."""
    if grey:
        return 0.0, h1 + h2
    turn = (h2 - h1 + 180) % 360 - 180
    if abs(h2 - h1) <= 180:
        return h2 - h1, (h1 + h2) / 2
    return turn, ((h1 + h2 + 360) / 2 if h1 + h2 < 360 else (h1 + h2 - 360) / 2)
