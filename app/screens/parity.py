"""P11, the mesh cube and the parity matrix: any layout on its ranks, and every layout proved."""

from __future__ import annotations

import streamlit as st
import theme

from parallel_core.parity.axes import KINDS, ways
from parallel_core.parity.first import TOLERANCE
from parallel_core.parity.matrix import Cell
from parallel_core.parity.sweep import Outcome, State
from parallel_core.trace import Kind
from parallel_core.views import parity_grid
from screens import chrome, live, parity_mesh
from screens import parity_runs as runs
from screens.controls import sentence
from screens.parity_runs import PAGE

CELL = "cell"  # in the URL


def page() -> None:
    """A mesh to look at, then the matrix: pick a cell and it runs."""
    chrome.header(
        "Mesh and parity",
        "Every axis divides the same ranks in another way, and each layout must train the very "
        "same model. Look at one mesh, then hold every layout against one process.",
    )
    live.warm()
    st.header("One mesh", anchor=False)
    plan = parity_mesh.choose()
    if plan is not None:
        parity_mesh.cube(plan)
    st.header("Every layout against one process", anchor=False)
    _matrix()


def _matrix() -> None:
    st.markdown(
        "Each cell is a layout of at most eight ranks: a small model in float64, three steps, and "
        "every gradient and every weight on every rank beside one process that does the same. "
        "Press a cell and it runs."
    )
    name = st.query_params.get(CELL, "")
    if name and name not in runs.matrix():
        st.info(f"No layout is called {chrome.plain(name)}; press a cell.")
        name = ""
    grid = _grid(name)
    _mount(grid)
    st.caption(parity_grid.in_words(grid))
    _buttons(name)
    if runs.waiting():
        runs.watch()
    if name:
        _detail(runs.matrix()[name])


def _grid(picked: str) -> parity_grid.Grid:
    table = runs.matrix()
    paired = [way for way in ways() if way.paired]
    pairs = {}
    for row, one in enumerate(paired):
        for column, other in enumerate(paired[: row + 1]):
            name = one.name if row == column else f"{other.name} + {one.name}"
            if name in table:
                pairs[row, column] = _mark(table[name])
    strips = {"Alone": [_mark(table[way.name]) for way in ways() if not way.paired]}
    for cell in table.values():
        if len(cell.parts) > 2:
            heading = f"{cell.section[0]} kinds at once"
            strips.setdefault(heading, []).append(_mark(cell))
    kinds = [(KINDS[way.kind], way.name) for way in paired]
    return parity_grid.Grid(
        ways=kinds, pairs=pairs, strips=strips, picked=picked, dark=chrome.dark()
    )


def _mark(cell: Cell) -> parity_grid.Mark:
    """What is known of a cell."""
    if cell.plan is None:
        return parity_grid.Mark(name=cell.name, state="refused", says=cell.refused)
    outcome = runs.found().get(cell.name)
    if outcome is None:
        return parity_grid.Mark(name=cell.name)
    says = outcome.message or f"largest error {outcome.worst:.0e}"
    return parity_grid.Mark(name=cell.name, state=str(outcome.state), says=says)


def _mount(grid: parity_grid.Grid) -> None:
    """The matrix on the page; a press goes into the URL and starts the run."""
    component = st.components.v2.component(
        "shardlab_parity", html='<div id="matrix"></div>', js=parity_grid.SCRIPT
    )
    component(
        key=f"{PAGE}.grid",
        data=parity_grid.drawing(grid).encode(),
        on_picked_change=_picked,
    )


def _picked() -> None:
    name = st.session_state[f"{PAGE}.grid"].get("picked")
    if name in runs.matrix():
        st.query_params[CELL] = name
        runs.want([name])


def _buttons(name: str) -> None:
    table, found = runs.matrix(), runs.found()
    left = [cell.name for cell in table.values() if cell.plan and cell.name not in found]
    with st.container(horizontal=True, vertical_alignment="center"):
        if name and table[name].plan:
            again = name in found
            label = f"Run {name} again" if again else f"Run {name}"
            if st.button(label, key=f"{PAGE}.run", type="primary", icon=":material/play_arrow:"):
                runs.forget(name)
                runs.want([name])
                st.rerun()
        if left and st.button(f"Run all {len(left)} that are left", key=f"{PAGE}.all"):
            runs.want(left)
            st.rerun()


def _detail(cell: Cell) -> None:
    """One layout: what was found, tensor by tensor, and how to run it elsewhere."""
    st.subheader(chrome.plain(cell.name), anchor=False)
    if cell.plan is None:
        st.markdown(sentence(cell.refused))
        return
    changed = f", with {cell.changed}, which it asks for" if cell.changed else ""
    st.markdown(chrome.plain(f"{cell.plan.layout}: {cell.plan.world_size} ranks{changed}."))
    outcome = runs.found().get(cell.name)
    if outcome is not None:
        _outcome(outcome)
    st.code(f"shardlab parity --layout {cell.layout}", language=None, wrap_lines=True)


def _outcome(outcome: Outcome) -> None:
    if outcome.state is State.EQUAL:
        theme.verdict(
            f"equal to {outcome.worst:.0e}",
            "the largest relative error of the loss, the gradient's norm, and every gradient and "
            f"weight on every rank, after three steps; {TOLERANCE:g} is allowed",
        )
    else:
        st.error(sentence(outcome.message))
    if outcome.errors:
        rank_words = "every rank beside one process"
        theme.badge(Kind.MEASURED, f"measured: float64, {rank_words}")
        told = [{"what": name, "largest error": f"{e:.1e}"} for name, e in outcome.errors.items()]
        chrome.table(told)
        rows = [
            {"tensor": name, **{kind: f"{error:.1e}" for kind, error in told.items()}}
            for name, told in outcome.tensors.items()
        ]
        with st.expander(f"Every tensor ({len(rows)})"):
            chrome.table(rows, first=64)
