"""The colours can be told apart: by everyone, on light and on dark, and with ink on them."""

from __future__ import annotations

import pytest

from parallel_core.program import Op
from parallel_core.views import palette
from parallel_core.views.palette import PHASES, SCORED_PHASES, SCORED_TENSORS, TENSORS


@pytest.mark.parametrize(("page", "least"), [("light", 15), ("dark", 12)])
def test_every_two_phases_can_be_told_apart_by_everyone(page: str, least: float) -> None:
    """The worst pair over normal vision and three dichromacies stays above the bar."""
    distance, vision, one, two = palette.worst_pair(getattr(PHASES[k], page) for k in SCORED_PHASES)
    assert distance >= least, f"{one} and {two} are {distance:.1f} apart for {vision} vision"


@pytest.mark.parametrize("page", ["light", "dark"])
def test_every_two_tensor_kinds_can_be_told_apart_by_everyone(page: str) -> None:
    """The same for the memory palette, at 15 on both pages."""
    colours = [getattr(TENSORS[k], page) for k in SCORED_TENSORS]
    distance, vision, one, two = palette.worst_pair(colours)
    assert distance >= 15, f"{one} and {two} are {distance:.1f} apart for {vision} vision"


def test_a_palette_that_is_known_to_fail_fails() -> None:
    """Teal and green of PyTorch's schedule picture: a tritan eye cannot part them."""
    distance, vision, *_ = palette.worst_pair(["#4E79F2", "#66C2A5", "#7DC87D"])
    assert distance < 12
    assert vision != "normal"


@pytest.mark.parametrize(
    ("one", "two", "distance"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
        ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_the_distance_is_ciede2000(
    one: palette.Vector, two: palette.Vector, distance: float
) -> None:
    """Against the test pairs published by Sharma, Wu and Dalal 2005, in both directions."""
    assert palette.delta_e(one, two) == pytest.approx(distance, abs=1e-4)
    assert palette.delta_e(two, one) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("name", [*PHASES, *TENSORS])
@pytest.mark.parametrize("page", ["light", "dark"])
def test_letters_can_be_read_on_every_fill(name: str, page: str) -> None:
    """WCAG AA for small text: 4.5 to 1."""
    shade = {**PHASES, **TENSORS}[name]
    ratio = palette.contrast(getattr(shade, page), getattr(shade, f"{page}_ink"))
    assert ratio >= 4.5, f"{shade.meaning}: {ratio:.2f}"


def test_no_two_compute_phases_share_a_letter_and_all_have_a_second_channel() -> None:
    """Colour is never alone: a letter in the cell, or a lane of its own for messages."""
    letters = [shade.letter for shade in PHASES.values() if shade.letter]
    assert len(letters) == len(set(letters))
    assert {key for key, shade in PHASES.items() if not shade.letter} == {
        "P2P",
        "collective",
        "other",
    }


def test_every_op_has_a_phase() -> None:
    """All our ops, and an op of another tool."""
    assert {palette.phase_of(op) for op in Op} <= set(PHASES)
    assert palette.phase_of("all_gather") == "collective"
    assert palette.phase_of("send") == "P2P"
    assert palette.phase_of("aten::mm") == "other"


def test_recompute_is_forward_at_45_percent() -> None:
    """The tint is computed from F, not chosen."""
    shade, forward = PHASES["recompute"], PHASES["F"]
    assert shade.light == palette.mix(forward.light, "#FFFFFF", 0.45)
    assert shade.dark == palette.mix(forward.dark, "#12161C", 0.45)
