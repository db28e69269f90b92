"""P4, the other half: a server sums the gradients, in step with its workers or out of step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import streamlit as st

from parallel_core.data import server_step
from parallel_core.data.parameter_server import Staleness, Update, order_of, staleness
from parallel_core.parameter_server_report import modelled
from parallel_core.plan import Plan, Server
from parallel_core.request import Request
from parallel_core.trace import Trace
from parallel_core.views import charts
from parallel_core.views.staleness import account, histogram
from screens import chrome, in_turn, live, results
from screens import shard_bench_runs as runs

PAGE = "parameter_server"
RANKS, SERVER = "the ranks", "a server"
MAIN = ("dp", "staleness_bound", "pace_ms")
MORE = ("layers", "hidden", "heads", "seq", "global_batch", "dtype", "optimizer", "lr", "steps")
DEFAULTS = {"dp": 4, "pace_ms": 60.0, "steps": 12, "layers": 2, "hidden": 64, "seq": 64}
MOST_UPDATES = 4000
PRESETS = {
    "All alike": {"parameter_server": "async", "speeds": "", "staleness_bound": None},
    "One straggler": {"parameter_server": "async", "dp": 4, "speeds": "1,1,1,3"},
    "A straggler, bounded": {
        "parameter_server": "async", "dp": 4, "speeds": "1,1,1,3", "staleness_bound": 1,
    },
    "In step": {"parameter_server": "sync", "staleness_bound": None},
}  # fmt: skip


def chosen() -> bool:
    """Whether the reader looks at this half of the page; each half follows its own runs."""
    summed_by = st.segmented_control(
        "Gradients are summed by", [RANKS, SERVER], default=RANKS, required=True, key="sums",
        bind="query-params", on_change=st.query_params.pop, args=("job", None),
    )  # fmt: skip
    return bool(summed_by == SERVER)


def half() -> None:
    """Choose, predict, run; who was how stale, and what it did to the loss."""
    request = _controls()
    if request is None:
        return
    if request.plan.dp * request.steps > MOST_UPDATES:
        st.info(f"More than {MOST_UPDATES:,} updates; take fewer steps or workers.")
        return
    run = _current()
    guess = chrome.predict(
        PAGE,
        f"{request.plan.dp} workers push gradients to one server. In the mean, how many updates of "
        "others has the server made between handing out the weights and taking in their gradient?",
        unit="versions",
        high=1000.0,
    )
    going = run is not None and run.going
    _buttons(request, guess, going=going)
    if run is not None and going:
        live.watch(run, _growing, PAGE)
    elif guess.settled or run is not None:
        _results(request, guess)


# -- asking ----------------------------------------------------------------------------------------


def _controls() -> Request | None:
    bound = {"bind": "query-params"}
    mode = st.radio(
        "Updates", [Server.ASYNC.value, Server.SYNC.value], horizontal=True,
        key="parameter_server", **bound,
        help="sync: one update from the gradients of all workers; async: one from each, at once",
    )  # fmt: skip
    values: dict[str, Any] = {"parameter_server": mode}
    values |= chrome.plan_controls(MAIN, defaults=DEFAULTS, columns=3)
    speeds = st.text_input(
        "Worker speeds: how many times longer each gradient takes", key="speeds", **bound,
        placeholder="all alike; as in 1,1,1,3",
    )  # fmt: skip
    values["speeds"] = speeds or None
    with st.expander("Model, batch, steps"):
        values |= chrome.plan_controls(MORE, defaults=DEFAULTS)
    with st.container(horizontal=True):
        for name, fields in PRESETS.items():
            press = {"on_click": st.session_state.update, "args": (fields,)}
            st.button(name, key=f"{PAGE}.{name}", **press)
    return chrome.request(values)


def _current() -> live.Follower | None:
    """The run being followed, if a server takes part; the second of a pair is started."""
    run = live.current(PAGE)
    if run is not None and run.asked.request.plan.parameter_server == Server.OFF:
        run = None
    return in_turn.take(run, PAGE, partial(runs.keep, page=PAGE))


def _buttons(request: Request, guess: chrome.Guess, *, going: bool) -> None:
    """Run what is chosen, or both modes one after the other on equal text."""
    with st.container(horizontal=True):
        icon = {"disabled": going, "icon": ":material/play_arrow:"}
        one = st.button("Run", type="primary", key=f"{PAGE}.run", **icon)
        icon["icon"] = ":material/flag:"
        both = st.button("Run sync against async", key=f"{PAGE}.both", **icon)
    if not (one or both):
        return
    chrome.commit({PAGE: guess})
    asked = [request]
    if both:
        asked = [
            Request.of(**_in_mode(request.plan, mode).flat(), steps=request.steps)
            for mode in (Server.SYNC, Server.ASYNC)
        ]
    in_turn.start(asked, PAGE)


def _in_mode(plan: Plan, mode: Server) -> Plan:
    """The same workers, in step or out of it."""
    bound = plan.staleness_bound if mode == Server.ASYNC else None
    return plan.but(parameter_server=mode.value, staleness_bound=bound)


def _growing(run: live.Follower) -> None:
    live.growing(run, PAGE)


# -- showing ---------------------------------------------------------------------------------------


def _results(request: Request, guess: chrome.Guess) -> None:
    plan = request.plan
    here = runs.latest(plan, PAGE)
    simulated, measured = _simulated(request), None if here is None else _measured(here)
    truth = simulated if measured is None else measured
    chrome.reveal(guess, truth.mean, "versions")
    if here is not None:
        results.parity(here.done.report["parity"], plan.dtype)
        if plan.parameter_server == Server.ASYNC:
            st.markdown(
                "The one process it is compared with applied the same stale gradients in the same "
                "order. Plain training would differ."
            )
    _lanes(plan, here)
    if plan.parameter_server == Server.ASYNC:
        _stale(plan, simulated, measured, here)
    _losses(plan)
    if here is not None:
        results.ledgers(here.done.report, PAGE)
        results.terminal(plan, here.done)
    trace = modelled(plan) if here is None else here.done.trace
    chrome.export(trace, f"parameter_server_{plan.parameter_server}", PAGE)


def _simulated(request: Request) -> Staleness:
    """By events, from the speeds alone: gradients take what they say and the server no time."""
    plan = request.plan
    if plan.parameter_server == Server.SYNC:
        return Staleness(0.0, (0.0,) * plan.dp, {}, (0, 0), 0)
    count = max(request.steps, 1) * plan.dp
    return staleness(order_of(plan.worker_speeds, count, bound=plan.staleness_bound), plan.dp)


def _measured(run: runs.Kept) -> Staleness | None:
    """From the updates that the server of a run wrote down; None where it ran in step."""
    found: Mapping[str, Any] | None = run.done.report.get("staleness")
    if found is None:
        return None
    names = ("number", "worker", "version", "seconds")
    updates = [Update(**{name: row[name] for name in names}) for row in found["updates"]]
    return staleness(updates, run.plan.dp)


def _lanes(plan: Plan, run: runs.Kept | None) -> None:
    """A lane a worker, the server's the last."""
    st.header("Workers and server", anchor=False)
    st.markdown(
        f"Ranks 0 to {plan.dp - 1} are workers, rank {plan.dp} is the server: it hands out "
        "weights, takes in gradients, updates (O)."
    )
    if server_step.paced(plan):
        st.markdown(
            "**Paced compute:** workers sleep until a gradient has taken its time, so that speeds "
            "are what they are said to be on any machine. It is no measure of this machine."
        )
    if run is None:
        title = f"{plan.layout}, modelled"
        chrome.player(modelled(plan), key=f"{PAGE}.model", title=title)
        return
    view = {"own": run.done.own, "model": run.done.model}
    title = f"Run #{run.number}"
    chrome.player(run.done.trace, key=f"{PAGE}.run_{run.name}", title=title, **view)


def _stale(
    plan: Plan, simulated: Staleness, measured: Staleness | None, run: runs.Kept | None
) -> None:
    """The histogram of each worker."""
    st.header("How stale", anchor=False)
    names = {
        worker: f"worker {worker}" + (f" ({speed:g}x)" if speed != 1 else "")
        for worker, speed in enumerate(plan.worker_speeds)
    }
    words = account(simulated, measured, names)
    badges = ["dashed: simulated from the speeds alone"]
    badges += [] if run is None or measured is None else [f"solid: {run.badge}"]
    figure = histogram(simulated, measured, names=names, badges=badges, dark=chrome.dark())
    chrome.chart(figure, f"Staleness by worker. {words}", f"{PAGE}.stale")
    st.markdown(words)
    if plan.staleness_bound is None:
        st.markdown(
            f"Each update makes the {plan.dp - 1} other gradients at work one version older: the "
            f"mean is W - 1 = {plan.dp - 1} whatever the speeds. A straggler does not change it, "
            "it only decides whose gradients are the old ones."
        )
    else:
        st.markdown(
            f"No worker begins a gradient more than {plan.staleness_bound} ahead of the slowest: "
            "the fast ones wait, and nothing gets very old."
        )


def _losses(plan: Plan) -> None:
    """In step against out of step, after as much text."""
    st.header("What it does to the loss", anchor=False)
    kept = {mode.value: runs.latest(_in_mode(plan, mode), PAGE) for mode in _MODES}
    ran: dict[str, Trace] = {
        f"{mode}, run #{run.number}": run.done.trace for mode, run in kept.items() if run
    }
    if not ran:
        st.markdown(
            "**Run sync against async** trains both on the same batches. A step has read the same "
            "text in both; out of step the server has then made as many updates as there are "
            "workers, each from one worker's gradient on older weights."
        )
        return
    ends = "; ".join(f"{name}: {run.metrics[-1]['loss']:.4f}" for name, run in ran.items())
    figure = charts.loss_curve(ran, dark=chrome.dark())
    chrome.chart(figure, f"Loss by step, as much text in each. {ends}", f"{PAGE}.loss")
    st.markdown(f"After the last step: {ends}. A step has read as much text in both.")


_MODES = (Server.SYNC, Server.ASYNC)
