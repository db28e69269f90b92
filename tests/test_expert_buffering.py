"""Claims about cold experts on the host and early copies: hits, bytes, no look ahead."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.expert.buffering import (
    ExpertBytes,
    best,
    lru,
    state_on_host,
    state_travels,
    touched,
)
from parallel_core.expert.placement import static
from parallel_core.expert.speculation import GUESSERS, outcome, speculate

WEIGHS = ExpertBytes.adam(10)
traces = st.lists(st.integers(0, 4), max_size=12)


def test_the_lessons_trace():
    """A B A C B A D A through two places: 2 hits, 3 at best, 4 if a miss may pass by."""
    assert sum(lru("ABACBADA", 2)) == 2
    assert sum(best("ABACBADA", 2)) == 3
    assert sum(best("ABACBADA", 2, bypass=True)) == 4


@given(traces, st.integers(1, 4))
def test_no_buffer_beats_the_one_that_knows_the_future(touches, size):
    """LRU never more hits; a larger buffer never fewer; a place each means one miss each."""
    for policy in (lru, best):
        assert sum(policy(touches, size)) <= sum(policy(touches, size + 1))
        assert len(touches) - sum(policy(touches, 5)) == len(set(touches))
    assert sum(lru(touches, size)) <= sum(best(touches, size))
    assert sum(best(touches, size)) <= sum(best(touches, size, bypass=True))


def most_hits(touches, size, bypass):
    """Every choice of what to throw out, tried."""
    states = {frozenset(): 0}
    for key in touches:
        after: dict[frozenset, int] = {}
        for held, hits in states.items():
            all_of = held | {key}
            new = hits + (key in held)
            outs = [all_of] if len(all_of) <= size else [all_of - {out} for out in all_of]
            for state in outs:
                if key in state or bypass:
                    after[state] = max(after.get(state, 0), new)
        states = after
    return max(states.values())


@given(traces, st.integers(1, 3), st.booleans())
@settings(max_examples=60)
def test_needed_again_last_is_the_best_there_is(touches, size, bypass):
    """Against all other choices."""
    assert sum(best(touches, size, bypass=bypass)) == most_hits(touches, size, bypass)


def test_a_step_goes_forward_and_back():
    """Layer by layer, experts without tokens left out."""
    loads = np.array([[3, 0, 1], [0, 2, 0]])
    assert touched(loads) == [(0, 0), (0, 2), (1, 1), (1, 1), (0, 2), (0, 0)]


histories = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 3, (4, 3, 5)) % 2 * 7
)


@given(histories, st.integers(1, 16))
def test_what_a_training_step_moves(loads, size):
    """On the host: weights for every miss, a gradient for every expert used. Travelling: whole."""
    for step, used in zip(state_on_host(loads, size, WEIGHS), (loads > 0).sum((1, 2)), strict=True):
        assert step.touches == 2 * used
        assert step.returned == used * WEIGHS.gradient
        assert step.fetched == (step.touches - step.hits) * WEIGHS.weights
        assert step.hits >= min(size, used)  # the last layers come back before they are gone
    steps = state_travels(loads, size, WEIGHS)
    fetched, returned = (sum(getattr(s, way) for s in steps) for way in ("fetched", "returned"))
    whole = WEIGHS.weights + WEIGHS.state
    assert returned <= fetched and fetched % whole == returned % whole == 0
    different = {key for step in loads for key in touched(step)}
    assert fetched >= whole * len(different)
    if size >= len(different):
        assert (fetched, returned) == (whole * len(different), 0)
    assert sum(s.hits for s in steps) >= sum(s.hits for s in state_on_host(loads, size, WEIGHS))


def test_a_buffer_for_all_fetches_once_if_the_state_travels():
    """And every step again if the host updates: what the device kept is old."""
    loads = np.ones((3, 2, 4), dtype=np.int64)
    travels, host = (way(loads, 8, WEIGHS) for way in (state_travels, state_on_host))
    assert [s.fetched for s in travels] == [8 * 140, 0, 0]
    assert [s.returned for s in travels] == [0, 0, 0]
    assert [s.fetched for s in host] == [8 * 20] * 3
    assert [s.hit_rate for s in travels] == [0.5, 1.0, 1.0]


def test_what_leaves_untrained_is_not_brought_back():
    """One place, two layers: forward leaves nothing behind, backward returns what it trained."""
    loads = np.ones((1, 2, 1), dtype=np.int64)
    (step,) = state_travels(loads, 1, WEIGHS)  # (0,0) in; (1,0) in, 0 out; hit; (0,0) in, 1 out
    assert (step.hits, step.fetched, step.returned) == (1, 3 * 140, 140)
    # three layers, twice: the second step's forward returns layer 0, trained before, and not layer
    # 1, which went out trained in the first step and came back as it was
    found = state_travels(np.ones((2, 3, 1), dtype=np.int64), 1, WEIGHS)
    assert [(s.hits, s.fetched // 140, s.returned // 140) for s in found] == [(1, 5, 2), (2, 4, 3)]


def chains(seed, noise, steps=6, layers=3, tokens=64, experts=8):
    """Every token's expert follows from the one before by a rule, but for some noise."""
    rng = np.random.default_rng(seed)
    rule = rng.permutation(experts)
    history = np.empty((steps, layers, tokens, 1), dtype=np.int64)
    history[:, 0] = rng.integers(0, experts, (steps, tokens, 1))
    for layer in range(1, layers):
        stray = rng.random((steps, tokens, 1)) < noise
        other = rng.integers(0, experts, (steps, tokens, 1))
        history[:, layer] = np.where(stray, other, rule[history[:, layer - 1]])
    return history


@given(st.integers(0, 99), st.sampled_from(list(GUESSERS)), st.integers(1, 5), st.integers(0, 2))
def test_no_guess_looks_ahead(seed, how, step, layer):
    """Whatever this layer and all after it choose, now and later, changes nothing."""
    history = chains(seed, 0.3)
    before = GUESSERS[how](history, step, layer, 8)
    history[step, layer:] = (history[step, layer:] + 1) % 8
    history[step + 1 :] = 0
    assert (GUESSERS[how](history, step, layer, 8) == before).all()
    assert before.shape == history[step, layer].shape


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_early_hit_wasted_late(seed, k):
    """Every wanted copy is a hit or late; a right guess wastes nothing, and sends what is sent."""
    rng = np.random.default_rng(seed)
    guess, truth = (rng.random((2, 30, 8)).argsort(-1)[..., :k]).astype(np.int64)
    placement, home = static(8, 4), rng.integers(0, 4, 30)
    found = outcome(guess, truth, placement, home, 10)
    right = outcome(truth, truth, placement, home, 10)
    assert found.wanted == right.wanted == right.hits == right.early
    assert right.wasted_bytes == right.late == 0 and right.sent_bytes == right.wanted * 10
    assert found.sent_bytes == found.wanted * 10 + found.wasted_bytes
    assert found.hits <= min(found.early, found.wanted)


def test_a_rule_between_layers_is_learned():
    """Experts that follow each other: nearly all hits; popularity hits by chance."""
    history, placement = chains(0, 0.0), static(8, 4)
    home = np.arange(64) % 4
    learned = [
        outcome(GUESSERS["following"](history, 5, layer, 8), history[5, layer], placement, home, 1)
        for layer in (1, 2)
    ]
    assert all(o.hit_rate == 1 and o.wasted_bytes == 0 for o in learned)
    assert speculate(history, "popular", placement, home).hit_rate < 0.5
    noisy = speculate(chains(0, 0.5), "following", placement, home).hit_rate
    assert noisy < speculate(history, "following", placement, home).hit_rate


def test_a_rare_expert_with_a_firm_follower_counts():
    """Expert 2 is always followed by 6 and 7; expert 0, far more frequent, mostly by 4 and 5."""
    first = np.array([[0, 1]] * 10 + [[0, 2]] * 2)
    then = np.array([[4, 5]] * 10 + [[6, 7]] * 2)
    history = np.stack([np.stack([first, then])] * 2)
    assert set(GUESSERS["following"](history, 1, 1, 8)[-1]) == {6, 7}


def test_the_same_token_again_is_remembered():
    """A batch that repeats: the step before tells everything; one that does not tells a quarter."""
    history, home = chains(1, 1.0), np.arange(64) % 4
    again = np.repeat(history[:1], 4, axis=0)
    assert speculate(again, "repeated", static(8, 4), home).hit_rate == 1
    assert 0.1 < speculate(history, "repeated", static(8, 4), home).hit_rate < 0.4


def test_a_better_guess_moves_more_of_what_crosses():
    """With accuracy p of single choices, p of the wanted copies are there early."""
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 8, (8000, 1))
    home = rng.integers(0, 4, 8000)
    for p, shift in product((0.0, 0.5, 0.9), (2,)):  # a wrong guess is another rank's expert
        guess = np.where(rng.random((8000, 1)) < p, truth, (truth + shift) % 8)
        found = outcome(guess, truth, static(8, 4), home, 1)
        assert found.hit_rate == pytest.approx(p, abs=0.02)
        assert found.late / 8000 == pytest.approx((1 - p) * 3 / 4, abs=0.02)
