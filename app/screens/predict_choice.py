"""The prediction box for a question with a few answers; predict.py has the one for a number."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from screens.predict import Guess, settle


def choose_one(key: str, question: str, answers: Sequence[str]) -> Guess:
    """Ask `question`; the guess's value is the place of the answer among `answers`.

    A locked guess stays as it is; only "Choose again" opens it.
    """
    said: Guess = st.session_state.setdefault(f"{key}.said", Guess(None, settled=False))
    with st.container(border=True):
        st.markdown(f"**Predict first.** {question}")
        if said.settled:
            locked = "Skipped." if said.value is None else f"Locked: {answers[int(said.value)]}"
            st.markdown(locked)
            again = {"type": "tertiary", "on_click": _open, "args": (key,)}
            st.button("Choose again", key=f"{key}.again", **again)
            return said
        picked = st.radio(
            question, answers, None, key=f"{key}.answer", label_visibility="collapsed"
        )
        at = None if picked is None else float(list(answers).index(picked))
        with st.container(horizontal=True):
            lock = {"disabled": at is None, "on_click": settle, "args": (key, at)}
            st.button("Lock my answer", key=f"{key}.lock", **lock)
            skip = {"type": "tertiary", "on_click": settle, "args": (key, None)}
            st.button("Skip this", key=f"{key}.skip", **skip)
    return Guess(at, settled=False)


def reveal_choice(guess: Guess, answers: Sequence[str], right: int, why: str) -> None:
    """Whether it was the right one, and why it is."""
    if guess.value is None:
        st.markdown(f"**Answer:** {answers[right]}. {why}")
    elif int(guess.value) == right:
        st.markdown(f"**{answers[right]}: right.** {why}")
    else:
        st.markdown(f"**You said {answers[int(guess.value)]}; it is {answers[right]}.** {why}")


def _open(key: str) -> None:
    st.session_state.pop(f"{key}.said", None)
