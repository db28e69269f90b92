"""Building a schedule by hand: the editor, the same as text, and what it is measured against."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from parallel_core.fields import PlanError
from parallel_core.pipeline import SCHEDULES, reading
from parallel_core.pipeline.completion import completed
from parallel_core.pipeline.legal import legal
from parallel_core.pipeline.partial import Board, progress
from parallel_core.program import ProgramError
from parallel_core.views import arena
from screens import chrome
from screens.controls import plain, sentence
from screens.pipeline_controls import Choice, seen
from screens.pipeline_draft import Draft, compact, expanded, read, splits, text_of
from screens.pipeline_match import peak

PAGE = "pipeline"
URL = "order"
MOST_URL = 6000  # characters of an order that still stand in an address
MOST_TASKS = 700  # that are edited by hand
_DRAFTS, _BOARD = f"{PAGE}.drafts", f"{PAGE}.board"
_TEXT, _SAID = f"{PAGE}.text", f"{PAGE}.said"


def build(choice: Choice) -> None:
    """The editor and everything around it; a move runs this part of the page only."""
    if 2 * choice.p * choice.m * choice.stages_a_rank > MOST_TASKS:
        most = MOST_TASKS // (2 * choice.p * choice.stages_a_rank)
        st.info(f"To build by hand take at most {most} microbatches here; text takes more.")
        return
    _bench(choice)


@st.fragment
def _bench(choice: Choice) -> None:
    draft = current(choice)
    st.header("By hand", anchor=False)
    st.markdown(
        "Place the tasks of every rank in the order in which it runs them. The board is that of "
        f"{choice.name}: who holds which stage. Messages, and when each task begins, follow."
    )
    _starts(choice, draft)
    try:
        data = arena.payload(sketch(choice, draft))
    except ProgramError as error:  # a cap that what is placed breaks
        st.error(sentence(str(error)))
        return
    component = st.components.v2.component(
        "shardlab_arena", html='<div id="player"></div>', js=arena.source()
    )
    component(
        key=f"{PAGE}.editor",
        data=json.dumps(data, separators=(",", ":")).encode(),
        on_picked_change=partial(_picked, choice),
    )
    _text(choice, draft)
    _own(choice, draft)


# -- the state -------------------------------------------------------------------------------------


def current(choice: Choice) -> Draft:
    """The draft of this board: the one in the session, in the URL, or an empty one.

    Schedules that put the same stages on the same ranks share it.
    """
    drafts: dict[Any, Draft] = st.session_state.setdefault(_DRAFTS, {})
    board = Board.of(choice.order, choice.cap)
    key = _name(board)
    new = key not in drafts
    draft = drafts.setdefault(key, Draft(board))
    draft.board = replace(draft.board, cap=choice.cap)
    draft.splits = choice.order.splits or splits(draft.ranks)
    before, st.session_state[_BOARD] = st.session_state.get(_BOARD), key
    if new and before is None and st.query_params.get(URL):
        _load(choice, draft, expanded(st.query_params[URL]), "In the address: ")
    elif before not in (None, key):
        _remember(draft)
    return draft


def _name(board: Board) -> str:
    """Who holds what, as a short name."""
    return f"arena {board.p} {hash(tuple(sorted(board.home.items())))}"


def _load(choice: Choice, draft: Draft, text: str, where: str = "") -> None:
    """Take the order in `text`; a wrong one is told and nothing changes."""
    draft.revision += 1
    draft.refused, draft.says = False, ""
    try:
        board, ranks = read(text, replace(draft.board, cap=choice.cap))
        if (board.p, board.m) != (choice.p, choice.m):
            legal(reading.read(text), p=choice.p, m=choice.m)
        if board.home != draft.board.home:  # it puts stages elsewhere: a board of its own
            draft.board, draft.states, draft.at = board, [], 0
            draft.__post_init__()
        draft.put(ranks)
    except ProgramError as error:
        draft.refused, draft.says = True, f"{where}{error}"
    _remember(draft)


def _remember(draft: Draft) -> None:
    """The state in the URL, as far as it fits there."""
    text = compact(draft.board, draft.ranks)
    if len(text) > MOST_URL or not any(draft.ranks):
        st.query_params.pop(URL, None)
    else:
        st.query_params[URL] = text


def _picked(choice: Choice) -> None:
    """Moves from the editor; those of a state that is no longer on screen are dropped."""
    picked = st.session_state[f"{PAGE}.editor"].get("picked") or {}
    draft = current(choice)
    if picked.get("revision") != draft.revision or picked.get("run") != _name(draft.board):
        return
    for move in picked.get("moves", [])[:200]:
        if isinstance(move, dict):
            draft.apply(move, choice.times)
            if draft.refused:
                break
    _remember(draft)


def _apply(choice: Choice, move: str) -> None:
    draft = current(choice)
    draft.apply({"do": move}, choice.times)
    _remember(draft)


def sketch(choice: Choice, draft: Draft) -> arena.Sketch:
    """The draft as the editor draws it: simulated with a greedy rest behind it."""
    times = choice.times
    progress(draft.board, draft.ranks)
    whole = completed(draft.board, draft.ranks, times, splits=draft.splits)
    return arena.Sketch(
        board=draft.board,
        ranks=draft.ranks,
        trace=seen(whole.order, times).trace,
        comm=times.comm,
        par=par(choice, draft.board),
        says=draft.says,
        refused=draft.refused,
        revision=draft.revision,
        can_undo=draft.at > 0,
        can_redo=draft.at + 1 < len(draft.states),
        run=_name(draft.board),
    )


def par(choice: Choice, board: Board) -> tuple[float, str] | None:
    """The shortest schedule of the table on this board, within the cap; None where none fits.

    Of several as short, the one that holds least. The asynchronous ones do not count: their
    weights are other ones.
    """
    found = []
    for name, line in SCHEDULES.items():
        if line.asynchronous:
            continue
        try:
            order = replace(choice, name=name).order
        except PlanError:
            continue
        held = peak(order)
        fits = choice.cap is None or held <= choice.cap + 1e-9
        if fits and board.placement_of(order):
            found.append((round(seen(order, choice.times).figures.makespan, 9), held, name))
    if not found:
        return None
    beats, _, name = min(found, key=lambda each: each[:2])
    return beats, name


# -- around the editor -----------------------------------------------------------------------------


def _starts(choice: Choice, draft: Draft) -> None:
    """Begin with a schedule of the table, with nothing, or let the rest be placed."""
    with st.container(horizontal=True):
        press: dict[str, Callable[..., None]] = {"on_click": _apply}
        st.button("Empty", key=f"{PAGE}.clear", args=(choice, "clear"), **press)
        st.button(
            f"Start from {choice.name}",
            key=f"{PAGE}.start",
            on_click=_load,
            args=(choice, draft, str(choice.order)),
        )
        st.button("Finish it greedily", key=f"{PAGE}.finish", args=(choice, "finish"), **press)


def _text(choice: Choice, draft: Draft) -> None:
    """The order as text, which may be typed, pasted or read from a file."""
    with st.expander("As text, or from a file"):
        text = text_of(draft.board, draft.ranks)
        if st.session_state.get(_SAID) != (draft.revision, text):
            st.session_state[_SAID] = draft.revision, text
            st.session_state[_TEXT] = text
        st.text_area(
            "A line a rank; F0 B0, or I0 and W0; 2F0 where a rank has several stages",
            key=_TEXT,
            height=34 * max(4, choice.p) + 30,
            on_change=_typed,
            args=(choice, draft),
        )
        if draft.refused:
            st.error(sentence(draft.says))
        st.file_uploader(
            "Text, torch's CSV, or JSON",
            key=f"{PAGE}.file",
            on_change=_uploaded,
            args=(choice, draft),
        )
        order = draft.order
        if order is not None:
            with st.container(horizontal=True):
                for form in reading.Form:
                    st.download_button(
                        form.value, reading.write(order, form), f"mine.{form.value}",
                        key=f"{PAGE}.save.{form.value}", on_click="ignore",
                        icon=":material/download:",
                    )  # fmt: skip


def _typed(choice: Choice, draft: Draft) -> None:
    text = st.session_state[_TEXT]
    _load(choice, draft, text)
    if draft.refused:  # what was typed stays in the box, to be mended
        st.session_state[_SAID] = draft.revision, text_of(draft.board, draft.ranks)


def _uploaded(choice: Choice, draft: Draft) -> None:
    file = st.session_state[f"{PAGE}.file"]
    if file is None:
        return
    try:
        _load(choice, draft, file.getvalue().decode("utf-8-sig"))
    except UnicodeDecodeError:
        draft.refused, draft.says = True, "the file is no text: write a line of tasks for each rank"


def _own(choice: Choice, draft: Draft) -> None:
    """The figures of a whole one, and the way to the run."""
    order = draft.order
    if order is None:
        return
    found = seen(order, choice.times)
    best = par(choice, draft.board)
    against = "" if best is None else f" {arena.par_words(best)}"
    st.markdown(
        f"**Legal.** {found.figures.makespan:g} beats, {found.figures.bubble_fraction:.1%} of all "
        f"time idle, at most {found.peak:g} microbatches in flight on a rank.{plain(against)} "
        "Under *Run* real ranks execute it."
    )
    chrome.share(f"{PAGE}.build")
