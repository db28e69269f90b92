"""Speculative dispatch: guess a token's next experts from the past, and send it before the router.

    early    copies to the ranks that were guessed, while attention still computes
    hit      a rank that was guessed and is wanted: nothing left to send
    wasted   guessed, not wanted: bytes for nothing
    late     wanted, not guessed: sent after the router as ever

A guess changes when bytes travel and how many, never what is computed: the router decides.
A history is experts [steps, layers, tokens, k], as a run recorded it. Every guesser looks at steps
before the one it guesses and, in that step, at layers before the one it guesses; nothing else.

Li et al. 2025, Speculative MoE, arXiv:2503.04398. That the next layer's experts follow from this
one's: Yao et al. 2024, ExFlow, arXiv:2401.08383.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parallel_core.expert.placement import IntArray, Placement, loads_of, reached

Guesser = Callable[[IntArray, int, int, int], IntArray]
"""(history, step, layer, experts) -> experts [tokens, k] that each token is thought to choose."""


def popular(history: IntArray, step: int, layer: int, experts: int) -> IntArray:
    """For every token the experts of this layer that were chosen most in all steps before."""
    tokens, k = history.shape[2:]
    loads = loads_of(history[:step, layer], experts)
    return np.tile(_top(loads[None, :].astype(np.float64), k), (tokens, 1))


def repeated(history: IntArray, step: int, layer: int, experts: int) -> IntArray:
    """What the token at the same place chose in the step before."""
    return np.asarray(history[step - 1, layer], dtype=np.int64)


def following(history: IntArray, step: int, layer: int, experts: int) -> IntArray:
    """The experts that most often came after those the token chose a layer before, in this step."""
    if layer == 0:
        return popular(history, step, layer, experts)
    k = history.shape[3]
    before, after = (_chosen(history[:step, at], experts) for at in (layer - 1, layer))
    came = before.T @ after  # [expert of the layer before, expert of this one]
    came = came / np.maximum(before.sum(0), 1)[:, None]
    return _top(_chosen(history[step, layer - 1], experts) @ came, k)


GUESSERS: dict[str, Guesser] = {
    "popular": popular,
    "repeated": repeated,
    "following": following,
}
"""Every way to guess."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Copies of tokens: sent early, of them hits, and sent late; bytes of one."""

    early: int
    hits: int
    late: int
    bytes_a_copy: int

    @property
    def wanted(self) -> int:
        """Copies the router asks for."""
        return self.hits + self.late

    @property
    def hit_rate(self) -> float:
        """Of the wanted copies, those that were there already."""
        return self.hits / self.wanted if self.wanted else 1.0

    @property
    def wasted_bytes(self) -> int:
        """Sent for nothing."""
        return (self.early - self.hits) * self.bytes_a_copy

    @property
    def sent_bytes(self) -> int:
        """Sent in all; without guesses it is `wanted` copies."""
        return (self.early + self.late) * self.bytes_a_copy


def outcome(
    guess: IntArray, truth: IntArray, placement: Placement, home: IntArray, bytes_a_copy: int
) -> Outcome:
    """What a guess was worth: experts [tokens, k] both, the rank each token is on [tokens].

    A token's own rank costs nothing and counts nowhere.
    """
    away = np.arange(placement.ranks)[None, :] != np.asarray(home)[:, None]
    guessed, wanted = (reached(placement, each) & away for each in (guess, truth))
    hits = int((guessed & wanted).sum())
    return Outcome(
        early=int(guessed.sum()),
        hits=hits,
        late=int(wanted.sum()) - hits,
        bytes_a_copy=bytes_a_copy,
    )


def speculate(
    history: IntArray, how: str, placement: Placement, home: IntArray, *, bytes_a_copy: int = 1
) -> Outcome:
    """A guesser on a whole history, from its second step on; KeyError for one that is not there."""
    steps, layers = history.shape[:2]
    found = [
        outcome(
            GUESSERS[how](history, step, layer, placement.experts),
            history[step, layer],
            placement,
            home,
            bytes_a_copy,
        )
        for step in range(1, steps)
        for layer in range(layers)
    ]
    return Outcome(
        early=sum(o.early for o in found),
        hits=sum(o.hits for o in found),
        late=sum(o.late for o in found),
        bytes_a_copy=bytes_a_copy,
    )


def _chosen(routing: IntArray, experts: int) -> NDArray[np.float64]:
    """[..., k] -> 0 or 1 [tokens, experts]."""
    flat = routing.reshape(-1, routing.shape[-1])
    found = np.zeros((len(flat), experts))
    np.put_along_axis(found, flat, 1.0, axis=1)
    return found


def _top(scores: NDArray[np.float64], k: int) -> IntArray:
    """The k best of each row, the lower number first where they tie."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)
