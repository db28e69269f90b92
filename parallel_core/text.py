"""Real text in global batches that do not depend on the layout.

A token is a byte of the corpus in UTF-8. The batch of a step is `global_batch` windows of seq + 1
bytes at random places; a rank takes its rows of it.

    window   c a l l _ m e          seq = 6
    ids      c a l l _ m
    labels   a l l _ m e            the label of a token is the token after it
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from parallel_core import places
from parallel_core.choices import IGNORED
from parallel_core.fields import PlanError
from parallel_core.plan import Plan


@dataclass(frozen=True)
class Batch:
    """One global batch: int64 ids[B, S], and labels[B, S] already shifted by one token."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]

    def rows(self, rows: NDArray[np.int64]) -> Batch:
        """These rows of the batch, by their global numbers."""
        return Batch(self.ids[rows], self.labels[rows])


@cache
def corpus() -> bytes:
    """The text of assets/moby_dick.txt."""
    return (places.assets() / "moby_dick.txt").read_bytes()


class Sampler:
    """Global batches of random windows, the same for every layout: (plan.seed, step) decide alone.

    Bytes are taken modulo the vocabulary, so one below 256 merges letters. Raises PlanError if a
    window is longer than the text.
    """

    def __init__(self, plan: Plan, text: bytes | None = None) -> None:
        self.plan = plan
        tokens = np.frombuffer(corpus() if text is None else text, dtype=np.uint8)
        self._tokens = tokens % min(plan.model.vocab, 256) if plan.model.vocab < 256 else tokens
        self._windows = len(tokens) - plan.seq
        if self._windows < 1:
            rule = f"must be less than the corpus of {len(tokens):,} tokens"
            raise PlanError("seq", plan.seq, rule, len(tokens) - 1)

    def batch(self, step: int) -> Batch:
        """The global batch of a step, B = plan.global_batch and S = plan.seq."""
        random = np.random.Generator(np.random.Philox(key=[self.plan.seed, step]))
        starts = random.integers(0, self._windows, size=self.plan.global_batch)
        windows = self._tokens[starts[:, None] + np.arange(self.plan.seq + 1)].astype(np.int64)
        return Batch(ids=windows[:, :-1].copy(), labels=windows[:, 1:].copy())


@dataclass(frozen=True)
class Columns:
    """The positions of every sequence that a rank holds, `real` of them tokens, then padding."""

    positions: NDArray[np.int64]
    real: int

    def of(self, batch: Batch) -> Batch:
        """Those of a batch; what is padding repeats the last token and counts in no loss."""
        if self.real == len(self.positions) == batch.ids.shape[1]:  # no part of it, and no padding
            return batch
        # take copies in rows; an index would lay columns together
        ids, labels = (x.take(self.positions, axis=1) for x in (batch.ids, batch.labels))
        labels[:, self.real :] = IGNORED
        return Batch(ids=ids, labels=labels)


def columns_of(plan: Plan, rank: int) -> Columns:
    """What a rank holds of each sequence: all of it, or its part along cp."""
    if plan.cp == 1:
        return Columns(np.arange(plan.seq), plan.seq)
    place = plan.mesh.coordinate(rank)["cp"]
    positions = np.array(plan.context.positions(place), dtype=np.int64)
    return Columns(np.minimum(positions, plan.seq - 1), sum(plan.context.is_real(place)))


def rows_of(plan: Plan, dp_index: int, microbatch: int) -> NDArray[np.int64]:
    """The global row numbers of one microbatch of one data-parallel rank.

    A rank's rows stand together, its microbatches one after another.

    >>> rows_of(Plan.of(global_batch=8, dp=2, microbatches=2), dp_index=1, microbatch=0)
    array([4, 5])
    """
    count = plan.rows_per_microbatch
    return np.arange(count) + (dp_index * plan.microbatches + microbatch) * count
