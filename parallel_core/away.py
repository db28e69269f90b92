"""Which forwards wait long enough for their backward that what they keep may leave the device."""

from __future__ import annotations

from collections.abc import Sequence

SOON = 3
"""A backward so many tasks behind its forward follows at once."""

Key = tuple[int, int]
"""A microbatch, and a piece of the model."""

Task = tuple[bool, Key]
"""A task of one rank: whether it is a forward, and of what."""


def away(tasks: Sequence[Task]) -> set[Key]:
    """What may leave between its forward and its backward, of one rank's tasks in order.

    >>> away([(True, (0, u)) for u in range(3)] + [(False, (0, u)) for u in (2, 1, 0)])
    {(0, 0)}
    """
    ends = {key: i for i, (forward, key) in enumerate(tasks) if not forward}
    begun = {key: i for i, (forward, key) in enumerate(tasks) if forward}
    return {key for key, i in begun.items() if ends.get(key, i) - i > SOON}
