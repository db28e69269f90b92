"""The prediction box: the reader commits to a number before the instrument opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st


@dataclass(frozen=True)
class Guess:
    """What the reader said: a number, or nothing yet, or that they will not guess."""

    value: float | None
    settled: bool


def predict(key: str, question: str, *, unit: str, high: float, low: float = 0.0) -> Guess:
    """Ask `question`; settled once the guess is locked or the reader chose to skip.

    A locked guess stays as it is; only "Guess again" opens it.
    """
    said: Guess = st.session_state.setdefault(f"{key}.said", Guess(None, settled=False))
    with st.container(border=True):
        st.markdown(f"**Predict first.** {question}")
        if said.settled:
            locked = "Skipped." if said.value is None else f"Locked: {amount(said.value, unit)}"
            st.markdown(locked)
            again = {"type": "tertiary", "on_click": _forget, "args": (key,)}
            st.button("Guess again", key=f"{key}.again", **again)
            return said
        number = st.number_input(f"Your guess, {unit}", low, high, value=None, key=f"{key}.number")
        with st.container(horizontal=True):
            lock = {"disabled": number is None, "on_click": settle, "args": (key, number)}
            st.button("Lock my guess", key=f"{key}.lock", **lock)
            skip = {"type": "tertiary", "on_click": settle, "args": (key, None)}
            st.button("Skip", key=f"{key}.skip", **skip)
    return Guess(number, settled=False)


def settle(key: str, number: float | None) -> None:
    """Lock this number, or with None skip the guess: from now on the instrument is open."""
    st.session_state[f"{key}.said"] = Guess(number, settled=True)


def commit(guesses: Mapping[str, Guess]) -> None:
    """A run begins: what was guessed so far is locked, each under its key."""
    for key, guess in guesses.items():
        if not guess.settled:
            settle(key, guess.value)


def _forget(key: str) -> None:
    st.session_state.pop(f"{key}.said", None)


def reveal(guess: Guess, truth: float, unit: str) -> None:
    """The truth beside the guess, and the size of the miss."""
    if guess.value is None:
        st.markdown(f"**Answer:** {amount(truth, unit)}.")
        return
    said = f"You said {amount(guess.value, unit)}; it is {amount(truth, unit)}."
    st.markdown(f"**{said}** {miss(guess.value, truth)}")


def amount(number: float, unit: str) -> str:
    """A number and its unit, which is the singular after 1.

    >>> amount(1.0, "times"), amount(1.5, "times"), amount(1.0, "ms")
    ('1 time', '1.5 times', '1 ms')
    """
    figure = f"{number:.4g}"
    several = unit.endswith("s") and len(unit) > len("ms")
    return f"{figure} {unit[:-1] if figure == '1' and several else unit}"


def miss(guess: float, truth: float) -> str:
    """How far a guess is off, in words.

    >>> miss(2.0, 8.0), miss(8.0, 8.01)
    ('4 times too low.', 'Within 1 %.')
    """
    if abs(guess - truth) <= 0.01 * abs(truth):
        return "Within 1 %."
    if guess * truth <= 0:
        return f"Off by {abs(guess - truth):.3g}."
    ratio = guess / truth
    size, way = (ratio, "high") if ratio > 1 else (1 / ratio, "low")
    if size < 1.5:
        return f"{(size - 1) * 100:.0f} % too {way}."
    return f"{size:.2g} times too {way}."
