"""Dropout whose mask depends on where an activation stands in the global batch, not on the layout.

Each mask bit is drawn from (seed, step, site, row, ..., feature), all of them global. A rank that
holds some rows, positions, heads or features draws the bits of those and no others, and a forward
that is run again (recomputation) draws the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parallel_core.rng import uniform


@dataclass(frozen=True)
class Place:
    """Where a piece of a batch stands: the run, the step, its global rows and positions.

    `rows` is int64 [B], the number of each sequence in the global batch of this `step`;
    `positions` is int64 [S], the place of each token in its whole sequence.
    """

    seed: int
    step: int
    rows: Tensor
    positions: Tensor


def grid(*axes: tuple[Tensor, int]) -> Tensor:
    """The flat global index of every combination of coordinates, int64.

    Each axis is (coordinates int64 [n], size of the whole axis); the result is [n, m, ...].

    >>> grid((torch.tensor([1]), 2), (torch.tensor([0, 2]), 3))
    tensor([[3, 5]])
    """
    index = torch.zeros((), dtype=torch.int64, device=axes[0][0].device)
    for at, size in axes:
        index = index[..., None] * size + at
    return index


def dropout(x: Tensor, p: float, site: str, place: Place, index: Tensor) -> Tensor:
    """`x` with a share `p` of its elements zeroed and the rest divided by 1 - p.

    `index` names the elements globally and has the shape of `x`. The mask is kept as one byte an
    element for the backward.
    """
    return x * kept(p, site, place, index) / (1 - p)


def kept(p: float, site: str, place: Place, index: Tensor) -> Tensor:
    """Which elements are not zeroed: bool, of the shape of `index`."""
    return uniform(place.seed, ("dropout", place.step, site), index) >= p
