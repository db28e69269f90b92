"""P0, the first page: a recorded run plays at once; then the reader makes one."""

from __future__ import annotations

from functools import cache

import streamlit as st

from parallel_core import places
from parallel_core.cases import program_of
from parallel_core.importers.load import load
from parallel_core.plan import Plan
from parallel_core.replay import replay
from parallel_core.trace import Trace
from parallel_core.views import charts
from screens import chrome, live, results

PAGE = "start"
RECORDED = "recorded_1f1b.json"
MAIN = ("dp", "steps", "microbatches", "bucket_mb")
MORE = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "dialect",
    "seq",
    "global_batch",
    "dp_method",
    "optimizer",
    "lr",
    "dtype",
    "seed",
)
AXES = (
    *("tp", "sp", "overlap_tp", "cp", "cp_method", "pp", "schedule", "zero", "recompute"),
    *("offload", "attention", "experts", "top_k", "ep", "tied", "dropout", "rank_order"),
)


def page() -> None:
    """The recorded run, what it shows, and the reader's own."""
    chrome.header(
        "One model, several processes",
        "A model is trained by several processes at once: below by four that hold a part of its "
        "layers each, and then in whatever way you choose.",
    )
    run = live.current(PAGE)
    if run is None:
        st.header("A recorded run", anchor=False)
        _recorded()
    else:  # the reader's own is what they came for now; it must not grow below the fold
        with st.expander("The recorded run"):
            _recorded()
    st.header("Make your own", anchor=False)
    live.warm()  # while the reader looks and chooses
    _own(run)


@cache
def recorded() -> tuple[Trace, Trace]:
    """The run that ships with the lab, and the same on own devices."""
    trace = load(RECORDED, (places.assets() / RECORDED).read_bytes())
    plan = Plan.of(**trace.provenance.plan)
    return trace, replay(plan, program_of(plan), trace)


def _recorded() -> None:
    trace, own = recorded()
    step = trace.steps[min(1, len(trace.steps) - 1)]
    chrome.player(trace, key="recorded", own=own, step=step, title=f"Step {step}")
    st.markdown(
        f"Each row is one of {trace.world_size} processes that train a small transformer on the "
        "text of *Moby-Dick*, a *pipeline*: the first holds the first layers, the last the last "
        "ones. The batch comes in microbatches, numbered in the cells. **F** runs one forward "
        "through a process's layers, **B** backward, and the thin lanes below each row hand what "
        "comes out to the next process, or back to the one before. Once it is full, every process "
        "takes one forward and one backward by turns: *1F1B*. **Hatched** is waiting for another "
        "process: point at it and it says for whom. As it fills and as it drains nobody can help "
        "that: it is the *bubble*. All processes share the cores of one machine, so that they "
        "wait for cores as well; the second clock shows the same run with a device for each. At "
        "the end every process updates its own layers, **O**. Press space in the picture to play "
        "it, the arrow keys to step."
    )


def _own(run: live.Follower | None) -> None:
    defaults = {"dp": 4}
    values = chrome.plan_controls(MAIN, defaults=defaults)
    with st.expander("Model, batch, optimizer"):
        values |= chrome.plan_controls(MORE, defaults=defaults)
    with st.expander(
        "Cut more than the batch: matrices, sequences, layers, state, experts; keep less"
    ):
        values |= chrome.plan_controls(AXES, defaults=defaults)
    request = chrome.request(values)
    going = run is not None and run.going
    guess = chrome.predict(
        PAGE,
        "In each step every process hands tensors to messages: its gradients to an all-reduce, and "
        "more if you cut more. How many MiB will one process hand over in a step?",
        unit="MiB",
        high=1e6,
    )
    pressed = st.button(
        "Run", type="primary", disabled=request is None or going, icon=":material/play_arrow:"
    )
    if pressed and request is not None:
        chrome.commit({PAGE: guess})
        live.start(request, PAGE)
    if run is None:
        return
    if going:
        live.watch(run, _growing, PAGE)
        return
    done = live.ended(run)
    if done is not None:
        _reveal(guess, done)
        results.show(done, PAGE)


def _growing(run: live.Follower) -> None:
    """What is there of a run that is still going."""
    trace = live.growing(run, PAGE)
    if len(trace.metrics) > 1:
        figure = charts.loss_curve({"this run": trace}, dark=chrome.dark())
        chrome.chart(figure, "The loss so far", f"{PAGE}.growing.loss")


def _reveal(guess: chrome.Guess, done: live.Finished) -> None:
    """The guess against what rank 0 was counted to hand over."""
    ledger = done.report["ledger"]
    handed = sum(
        op["payload_bytes"][0] for ops in ledger["wire"]["measured"].values() for op in ops.values()
    )
    each = handed / max(len(done.trace.metrics), 1)
    chrome.reveal(guess, each / 2**20, "MiB")
    if each == ledger["memory"]["measured"]["grads"][0]:
        st.caption(
            "Exactly the bytes of its gradients: each is handed over once a step, however many "
            "processes there are and however the buckets are cut."
        )
