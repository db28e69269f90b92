"""The catalogue of the museum: famous silent bugs of parallel training, each with its source.

Every one was found in code that people trained with. What an exhibit says of itself (`shows`,
`notices`, `suspects`, `asleep`) is held against real runs by a test.
"""

from __future__ import annotations

from parallel_core.museum.exhibit import Exhibit
from parallel_core.museum.exhibits_places import PLACES
from parallel_core.museum.exhibits_scales import SCALES
from parallel_core.museum.exhibits_sums import SUMS

ROOMS: dict[str, tuple[Exhibit, ...]] = {
    "Sums that are not made": SUMS,
    "Factors too many": SCALES,
    "Things out of place": PLACES,
}
"""The exhibits as the page hangs them."""

EXHIBITS: dict[str, Exhibit] = {each.name: each for room in ROOMS.values() for each in room}
"""The reading list: every bug by the name that the command and the page know it by."""
