"""The mesh half of the parity page: the cube, what each axis sends over which wire, and what a rank
holds."""

from __future__ import annotations

import streamlit as st

from parallel_core.cases import program_of
from parallel_core.ledger import predicted_counts, wire
from parallel_core.plan import Plan
from parallel_core.sizes import value_bytes
from parallel_core.views import mesh_cube, mesh_holds
from screens import chrome
from screens.parity_runs import PAGE
from screens.predict_choice import choose_one, reveal_choice

MAIN = ("dp", "zero", "shard", "tp", "sp", "cp", "cp_method", "ep", "pp", "schedule", "rank_order")
SIZES = ("layers", "hidden", "heads", "seq", "global_batch", "microbatches")
DEFAULTS = {"dp": 2, "tp": 2, "pp": 2, "layers": 4, "hidden": 64, "seq": 32}
PLANNED = {"global_batch": 16, "microbatches": 4}
MOST_INSTRUCTIONS = 20_000


def choose() -> Plan | None:
    """The plan of the controls, or None after a sentence that says what is wrong."""
    values = chrome.plan_controls(MAIN, columns=5, defaults=DEFAULTS)
    with st.expander("Model and batch"):
        values |= chrome.plan_controls(SIZES, columns=6, defaults={**DEFAULTS, **PLANNED})
    if int(values["ep"] or 1) > 1:
        values["experts"] = 2 * int(values["ep"])
    if int(values["pp"] or 1) == 1:
        values.pop("schedule")
    if int(values["cp"] or 1) == 1:
        values.pop("cp_method")
    return chrome.plan(values)


def question(plan: Plan, per_node: int) -> bool:
    """Which axis stays inside a node; whether it was answered."""
    axes = mesh_cube.shown_axes(plan)
    if len(axes) < 2:
        return True
    key = f"{PAGE}.wire.{plan.layout}.{per_node}.{plan.rank_order}"
    answers = (*axes, "none of them")
    guess = choose_one(
        key,
        f"{plan.layout}, {plan.world_size} ranks on nodes of {per_node}. Ranks are numbered "
        f"{numbered(plan)}. Which axis sends nothing between nodes?",
        answers,
    )
    if guess.settled:
        inside = [a for a in axes if "inside" in mesh_cube.crossing(plan, a, per_node)]
        said = None if guess.value is None else answers[int(guess.value)]
        right = said if said in inside else (*inside, answers[-1])[0]
        why = f"Inside a node stay: {', '.join(inside) or 'none'}. "
        inner = next(name for name, degree in plan.mesh.axes if degree > 1)
        why += f"Neighbouring numbers share a node, and {inner}, innermost, has neighbouring ones."
        reveal_choice(guess, answers, answers.index(right), why)
    return guess.settled


def numbered(plan: Plan) -> str:
    """In which order the axes number the ranks: "tp first, then cp, dp and pp"."""
    first, *rest, last = plan.rank_order.split("-")
    return f"{first} first, then {', '.join(rest)} and {last}"


def cube(plan: Plan) -> None:
    """The picture, its axes, and one rank's holdings."""
    if plan.world_size < 2:
        st.info("One rank is no mesh: take more.")
        return
    axes = mesh_cube.shown_axes(plan)
    columns = st.columns(3)
    with columns[0]:
        axis = st.selectbox("Groups of axis", axes, key="axis", bind="query-params")
    with columns[1]:
        most = plan.world_size - 1
        rank = int(st.number_input("Rank", 0, most, 0, key="rank", bind="query-params"))
    with columns[2]:
        per_node = int(st.number_input("Ranks a node", 1, 256, 4, key="node", bind="query-params"))
    if not question(plan, per_node):
        return
    picture = mesh_cube.Cube(
        plan=plan, per_node=per_node, axis=str(axis), rank=rank, dark=chrome.dark()
    )
    if plan.world_size <= mesh_cube.MOST:
        _mount(picture)
    st.markdown(mesh_cube.in_words(picture))
    st.subheader("What each axis carries", anchor=False)
    chrome.table(mesh_cube.axis_rows(plan, per_node, _bytes(plan)))
    st.caption(
        "Bytes on the wire in one step over all ranks, predicted; a run of the Start page counts "
        "them. Two names of one row's ranks are ways to divide them: joins of axes."
    )
    place = plan.mesh.coordinate(rank)
    where = ", ".join(f"{name} {place[name]}" for name, n in picture.axes)
    st.subheader(f"What rank {rank} holds", anchor=False)
    st.markdown(f"It stands at {where}, on node {picture.node(rank)}.")
    chrome.table(mesh_holds.rows(plan, rank))


def _mount(picture: mesh_cube.Cube) -> None:
    """The cube on the page; a press on a box picks its rank."""
    component = st.components.v2.component(
        "shardlab_mesh", html='<div id="cube"></div>', js=mesh_cube.SCRIPT
    )
    component(
        key=f"{PAGE}.cube", data=mesh_cube.drawing(picture).encode(), on_picked_change=_picked
    )


def _picked() -> None:
    rank = st.session_state[f"{PAGE}.cube"].get("picked")
    if isinstance(rank, int):
        st.session_state["rank"] = rank


def _bytes(plan: Plan) -> dict[str, dict[str, int]]:
    """Bytes a step puts on the wire, by axis and op; messages to neighbours belong to pp."""
    program = program_of(plan)
    if not chrome.laid_out(sum(map(len, program.ranks)), MOST_INSTRUCTIONS):
        return {}
    table = wire(predicted_counts(program, value_bytes(plan), 1), plan.mesh.degree)
    found = {
        axis: {op: row["wire_bytes"] for op, row in ops.items() if row["wire_bytes"]}
        for axis, ops in table.items()
    }
    if "p2p" in found:
        found["pp"] = {**found.get("pp", {}), **found.pop("p2p")}
    return found
