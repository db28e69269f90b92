"""The memory river in words, for those who cannot see it."""

from __future__ import annotations

from parallel_core.outline import KINDS
from parallel_core.quantities import bytes_text
from parallel_core.views.palette import TENSORS
from parallel_core.views.river import River, total


def account(shown: River) -> str:
    """The river in words: where it stands, where it peaks, how far measured is from predicted."""
    top, found = shown.top, shown.found
    rest = min(moment.total for moment in shown.moments)
    parts = ", ".join(f"{TENSORS[kind].meaning} {bytes_text(top.bytes[kind])}" for kind in KINDS)
    lines = [
        f"Rank {shown.rank} holds {bytes_text(rest)} at the least and {bytes_text(top.total)} at "
        f"its peak, {top.words}: {parts}."
    ]
    if shown.again:
        most = max(shown.again, key=lambda again: again.done - again.start)
        lines.append(
            f"{len(shown.again)} backwards compute something again; the longest is {most.words}."
        )
    if shown.at_host:
        lines.append(f"Up to {bytes_text(shown.at_host)} lie in the host's memory instead.")
    if found is not None:
        size = total(found)
        lines.append(f"Measured, the most was {bytes_text(size)}" + _beside(size, top.total))
    if shown.capacity and top.total > shown.capacity:
        lines.append(f"That is more than the capacity of {bytes_text(shown.capacity)}.")
    return " ".join(lines)


def _beside(found: int, predicted: int) -> str:
    if found == predicted:
        return ", to the byte what was predicted."
    if found > predicted:
        return f": {found - predicted:,} bytes MORE than the plan allows."
    return (
        f", {predicted - found:,} bytes below the outline, which has what an instruction makes or "
        "frees there for as long as it runs."
    )
