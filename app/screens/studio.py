"""P3, the collective studio: what moves, how it moves, what it costs."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import streamlit as st
import theme

from parallel_core.collectives import TRANSPOSE
from parallel_core.collectives.clock import collective_cost
from parallel_core.collectives.costs import bus_factor, predicted
from parallel_core.collectives.formulas import FORMULAS
from parallel_core.collectives.names import chunks
from parallel_core.collectives.picture import picture
from parallel_core.collectives.promise import layouts, promise
from parallel_core.collectives.request import WIDTHS, CollectiveRequest
from parallel_core.cost import Link
from parallel_core.hardware.topology import Topology
from parallel_core.network import Network
from parallel_core.quantities import bytes_text, time_text
from parallel_core.simulate import Carried, simulate_on
from parallel_core.views import studio as view
from screens import chrome, live, studio_cost, studio_runs
from screens.studio_controls import Choice, choose, live_request

PAGE = "studio"
EPSILON = {"float64": 2**-52, "float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}
"""The relative spacing of a type's numbers: a sum of n may be off by n of them."""


def page() -> None:
    """Choose, predict, watch the model, run it for real, race, and look at the cost."""
    chrome.header(
        "Collective studio",
        "Ranks hold chunks and hand them on until everybody has what was promised. Every tile "
        "moves for as long as its bytes take, in the model and in your own run.",
    )
    live.warm()
    choice = choose()
    if choice is None:
        return
    request = choice.request
    _what(request)
    here = studio_runs.current()
    going = here is not None and here.going
    guess = _predict(request)
    _buttons(choice, guess, going=going)
    if here is not None and going:
        studio_runs.watch(here)
    if not (guess.settled or here is not None):
        return
    _reveal(request, guess)
    _stage(choice)
    done = studio_runs.find(request)
    if done is not None:
        _proof(done)
    studio_cost.section(choice)
    _take_away(choice, done)


# -- asking ----------------------------------------------------------------------------------------


def _what(request: CollectiveRequest) -> None:
    """The rewrite of the layout, its time on paper, its transpose."""
    formula = FORMULAS[request.op][request.algorithm]
    turned = TRANSPOSE.get(request.op)
    backward = f" Its backward is **{turned}**." if turned else ""
    st.markdown(f"`{layouts()[request.op]}`  Time {formula.text} ({formula.source}).{backward}")


def _predict(request: CollectiveRequest) -> chrome.Guess:
    if not request.bytes or request.op == "barrier":
        question = f"How many messages does {request.op} by {request.algorithm} take in all?"
        return chrome.predict(PAGE, question, unit="messages", high=1e5)
    return chrome.predict(
        PAGE,
        f"{request.ranks} ranks, a buffer of S = {bytes_text(request.bytes)} each, by "
        f"{request.algorithm}: how many times S does the busiest rank send?",
        unit="× S",
        high=1e4,
    )


def _reveal(request: CollectiveRequest, guess: chrome.Guess) -> None:
    width = WIDTHS[request.dtype]
    tally = predicted(
        request.op, request.algorithm, request.group, request.elements, itemsize=width
    )
    if not request.bytes or request.op == "barrier":
        return chrome.reveal(guess, tally.messages, "messages")
    return chrome.reveal(guess, tally.sent_max / request.bytes, "× S")


def _buttons(choice: Choice, guess: chrome.Guess, *, going: bool) -> None:
    with st.container(horizontal=True):
        icon = {"disabled": going, "icon": ":material/play_arrow:"}
        one = st.button("Run", type="primary", key=f"{PAGE}.run", **icon)
        race = choice.rival is not None and st.button(
            f"Race {choice.request.algorithm} against {choice.rival.algorithm}",
            key=f"{PAGE}.race",
            disabled=going,
            icon=":material/flag:",
        )
    if not (one or race) or not all(map(live_request, choice.both if race else [choice.request])):
        return
    chrome.commit({PAGE: guess})
    studio_runs.start(choice.request, choice.rival if race else None)


# -- showing ---------------------------------------------------------------------------------------


def _stage(choice: Choice) -> None:
    """The scene, or the two of a race: measured where there are runs, else modelled."""
    st.header("The scene" if choice.rival is None else "The race", anchor=False)
    done = [studio_runs.find(request) for request in choice.both]
    kinds = ["modelled", "measured"] if all(done) else ["modelled"]
    kind = kinds[-1]
    if len(kinds) > 1:
        kind = st.radio("Show", kinds, index=1, horizontal=True, key="show", bind="query-params")
    scenes = [
        _scene(choice, request, run if kind == "measured" else None)
        for request, run in zip(choice.both, done, strict=True)
    ]
    _mount(view.payload(*scenes, layout=_layout(choice), run=_name(choice, kind)))
    with st.expander("Step by step, as text"):
        st.code(picture(choice.request.program), language=None)


def _scene(choice: Choice, request: CollectiveRequest, run: studio_runs.Kept | None) -> view.Scene:
    program = request.program
    carried = modelled(request, choice.wire.link, choice.network, overlap=choice.overlap)
    factor = bus_factor(request.op, request.ranks)
    given: dict[str, Any] = {
        "program": program,
        "ends": promise(request.op, request.group, chunks(program)).ends,
        "title": request.algorithm if choice.rival else f"{request.op} by {request.algorithm}",
        "least": (factor * request.bytes, _LEAST.get(request.op, "(n-1)/n S")),
        "node": request.node,
    }
    if run is not None:
        model = carried.trace if choice.here else None
        return view.Scene(trace=run.trace, model=model, **given)
    return view.Scene(trace=carried.trace, hops=carried.hops, topology=choice.network, **given)


_LEAST = {"all_reduce": "2(n-1)/n S", "broadcast": "S", "reduce": "S", "send_recv": "S"}


@lru_cache(maxsize=64)
def modelled(
    request: CollectiveRequest, link: Link, network: Topology | None, *, overlap: bool
) -> Carried:
    """The request as the simulator lays it out."""
    program = request.program
    wires = link if network is None else None
    cost = collective_cost(
        program, request.bytes, wires, itemsize=WIDTHS[request.dtype], overlap=overlap
    )
    placed = None if network is None else Network(network)
    return simulate_on(program, cost, placed, rendezvous=True)


def _layout(choice: Choice) -> str:
    """The layout in the URL; else the network's own, else the algorithm's."""
    asked = st.query_params.get("layout")
    if asked in view.LAYOUTS:
        return asked
    if choice.network is not None:
        own = {"ring": "ring", "torus": "grid", "fat-tree": "fabric", "two-level": "boxes"}
        return own.get(choice.network.kind, "ring")
    own = {"tree": "tree", "hierarchical": "boxes", "double_tree": "tree"}
    return own.get(choice.request.algorithm, "ring")


def _name(choice: Choice, kind: str) -> str:
    request = choice.request
    return f"{kind} {request.op} {request.ranks} {[r.algorithm for r in choice.both]}"


def _mount(data: dict[str, Any]) -> None:
    """The studio on the page; a layout that is chosen in it goes into the URL."""
    component = st.components.v2.component(
        "shardlab_studio", html='<div id="player"></div>', js=view.source()
    )
    component(
        key=f"{PAGE}.scene",
        data=json.dumps(data, separators=(",", ":")).encode(),
        on_picked_change=_picked,
    )


def _picked() -> None:
    picked = st.session_state[f"{PAGE}.scene"].get("picked") or {}
    if picked.get("layout") in view.LAYOUTS:
        st.query_params["layout"] = picked["layout"]


def _proof(done: studio_runs.Kept) -> None:
    """The promise kept, equal to torch, bytes predicted and counted."""
    report, request = done.report, done.request
    off, torch = report["max_rel_error"], report["max_rel_error_to_torch"]
    if off > request.ranks * EPSILON.get(request.dtype, 0.0):
        st.error(f"A relative error of {off:.1e} is more than {request.dtype} sums explain.")
    same = "equal to the bit on all ranks" if report["equal_on_all_ranks"] else "NOT equal on ranks"
    against = "" if torch is None else f"; {torch:.1e} from torch.distributed's result"
    theme.verdict(
        f"promise kept to {off:.1e}" if off else "promise kept exactly",
        f"the largest relative error of run #{done.number} against the sums worked out from the "
        f"inputs{against}; {same}.",
    )
    sent, messages = report["bytes_sent"], report["messages"]
    agree = sent["predicted"] == sent["measured"] and messages["predicted"] == messages["measured"]
    boxes = st.columns(4)
    seconds = report["seconds"]
    boxes[0].metric("Time, median", time_text(1e9 * seconds["ours"]))
    if "torch" in seconds:
        boxes[1].metric("torch's own call", time_text(1e9 * seconds["torch"]))
    if report["bandwidth"].get("ours"):
        boxes[2].metric("Bus bandwidth", f"{report['bandwidth']['ours']['bus_gb_s']:.3g} GB/s")
    boxes[3].metric("Messages", f"{messages['measured']:,}")
    word = "**equal, to the byte**" if agree else "**different**"
    st.markdown(f"Bytes and messages, predicted by formula and counted in the run: {word}.")
    rows = [
        {
            "rank": rank,
            "predicted": f"{p:,}",
            "counted": f"{m:,}",
            "equal": "yes" if p == m else "no",
        }
        for rank, (p, m) in enumerate(zip(sent["predicted"], sent["measured"], strict=True))
    ]
    with st.expander("Bytes sent by every rank"):
        chrome.table(rows)


def _take_away(choice: Choice, done: studio_runs.Kept | None) -> None:
    st.caption("The same from a terminal:")
    lines = [command(choice.request)]
    if not choice.here:
        over = f" --topology {choice.network.text}" if choice.network else ""
        lines += [f"{lines[0]} --simulate{over} --link {choice.wire.name}"]
    st.code("\n".join(lines), language=None, wrap_lines=True)
    trace = (
        done.trace
        if done
        else modelled(
            choice.request, choice.wire.link, choice.network, overlap=choice.overlap
        ).trace
    )
    chrome.export(trace, f"{choice.request.op}_{choice.request.algorithm}", PAGE)


def command(request: CollectiveRequest) -> str:
    """The command line that runs the same.

    >>> command(CollectiveRequest(ranks=8, bytes=4096))
    'shardlab collective all_reduce --algorithm ring --ranks 8 --bytes 4096'
    """
    words = [f"shardlab collective {request.op} --algorithm {request.algorithm}"]
    words += [f"--ranks {request.ranks} --bytes {request.bytes}"]
    usual = CollectiveRequest()
    for name in ("root", "node", "segments", "dtype"):
        value = getattr(request, name)
        words += [f"--{name} {value}"] if value != getattr(usual, name) else []
    return " ".join(words)
