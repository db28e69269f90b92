"""P4, data parallelism: when to sum the gradients, and what of the sum stays exposed."""

from __future__ import annotations

import streamlit as st
import theme

from parallel_core.data.bucketed import buckets
from parallel_core.data.overlap import MIB, Overlap, gradient_bytes, messages_a_step
from parallel_core.params import units
from parallel_core.plan import DPMethod, Plan
from parallel_core.request import Request
from parallel_core.views import buckets as lanes
from parallel_core.views.exposure import Use, exposure_curve, use
from parallel_core.views.marks import typical_step
from parallel_core.views.race import race
from screens import chrome, data_parallel_server, dp_runs, in_turn, live, results

PAGE = "data_parallel"
MAIN = ("dp", "dp_method", "bucket_mb", "microbatches")
MORE = ("layers", "hidden", "heads", "dialect", "seq", "global_batch", "dtype", "steps")
DEFAULTS = {"dp": 4, "steps": 6}
MOST_INSTRUCTIONS = 8000
PRESETS = {
    "One bucket: nothing hides": {"dp_method": "bucketed", "bucket_mb": 4096.0},
    "Tiny layers, a bucket each: all latency": {
        "dp_method": "bucketed",
        "bucket_mb": 0.001,
        "layers": 16,
        "hidden": 32,
        "seq": 32,
    },
    "Back to the start": {
        "dp_method": "bucketed",
        "bucket_mb": 1.0,
        "layers": 4,
        "hidden": 128,
        "seq": 128,
    },
}


def page() -> None:
    """Choose, predict, run, and lay what happened beside the model and the formula."""
    chrome.header(
        "Data parallel",
        "Every rank computes gradients on its own part of the batch; before the update they must "
        "be summed over all ranks. Sent in buckets while the backward goes on, most of that hides.",
    )
    live.warm()
    if data_parallel_server.chosen():
        data_parallel_server.half()
        return
    request = _controls()
    if request is None or not _drawable(request.plan):
        return
    run = in_turn.take(live.current(PAGE), PAGE, dp_runs.keep)
    _cut(request.plan)
    guess = chrome.predict(
        PAGE,
        "Which share of the communication stays exposed, under way when the backward is over?",
        unit="%",
        high=100.0,
    )
    going = run is not None and run.going
    _buttons(request, guess, going=going)
    if run is not None and going:
        live.watch(run, _growing, PAGE)
    elif guess.settled or run is not None:
        _results(request.plan, guess)


# -- asking ----------------------------------------------------------------------------------------


def _controls() -> Request | None:
    values = chrome.plan_controls(MAIN, defaults=DEFAULTS)
    with st.expander("Model, batch, steps"):
        values |= chrome.plan_controls(MORE, defaults=DEFAULTS)
    with st.container(horizontal=True):
        for name, fields in PRESETS.items():
            st.button(name, key=f"{PAGE}.{name}", on_click=st.session_state.update, args=(fields,))
    return chrome.request(values)


def _drawable(plan: Plan) -> bool:
    """Whether the model has something to lay out, and not too much; else says so."""
    if plan.dp == 1:
        st.info("dp=1 is one rank, which sends nothing; take dp=2 or more.")
        return False
    size = plan.dp * plan.microbatches * 2 * len(units(plan.model))
    if size > MOST_INSTRUCTIONS:
        st.info(
            f"This step has about {size:,} instructions; the page lays out {MOST_INSTRUCTIONS:,}. "
            "Take fewer microbatches or layers."
        )
        return False
    return True


def _cut(plan: Plan) -> None:
    """How the gradients are cut into messages: what a guess can be made from."""
    names, sizes = units(plan.model), gradient_bytes(plan)
    total = sum(sizes) / MIB
    law = dp_runs.basis(plan, dp_runs.alike(plan), "own device").law
    how = f"{messages_a_step(plan)} messages, one a parameter, after the whole backward"
    if plan.dp_method == DPMethod.BUCKETED:
        cut = buckets(plan)
        shown = [f"{_range(names, b)} ({sum(sizes[u] for u in b) / MIB:.2f} MiB)" for b in cut[:8]]
        more = f", and {len(cut) - 8} more" if len(cut) > 8 else ""
        how = f"{len(cut)} bucket{'s' * (len(cut) > 1)} in the order of the backward: "
        how += "; ".join(shown) + more
    count = messages_a_step(plan)
    st.markdown(
        f"Each rank has {total:.2f} MiB of gradients to sum. They go in {how}. By the model, the "
        f"backward of the last microbatch takes {1e3 * law.backward:.1f} ms and all messages "
        f"together {1e3 * law.comm(count):.1f} ms."
    )


def _range(names: tuple[str, ...], bucket: tuple[int, ...]) -> str:
    first, last = names[bucket[0]], names[bucket[-1]]
    return first if first == last else f"{first} … {last}"


def _buttons(request: Request, guess: chrome.Guess, *, going: bool) -> None:
    """Run one method, or both of them one after the other."""
    with st.container(horizontal=True):
        icon = {"disabled": going, "icon": ":material/play_arrow:"}
        one = st.button("Run", type="primary", key=f"{PAGE}.run", **icon)
        icon["icon"] = ":material/flag:"
        both = st.button("Race naive against bucketed", key=f"{PAGE}.race", **icon)
    if not (one or both):
        return
    chrome.commit({PAGE: guess})
    methods = [request]
    if both:
        flat = {**request.plan.flat(), "steps": request.steps}
        methods = [Request.of(**{**flat, "dp_method": method}) for method in ("naive", "bucketed")]
    in_turn.start(methods, PAGE)


def _growing(run: live.Follower) -> None:
    live.growing(run, PAGE)


# -- showing ---------------------------------------------------------------------------------------


def _results(plan: Plan, guess: chrome.Guess) -> None:
    clock = st.radio(
        "Clock of the charts",
        ["own device", "wall"],
        horizontal=True,
        key="clock",
        bind="query-params",
        help="own device: every rank as if it had a device to itself, replayed from its own CPU "
        "time and the fitted link; wall: what this machine did, its cores shared by all ranks",
    )
    runs = dp_runs.alike(plan)
    base = dp_runs.basis(plan, runs, clock)
    here = next((run for run in reversed(runs) if run.plan == plan), None)
    _answer(plan, base, here, guess)
    _trouble(plan, base.law, base.source)
    _one_step(plan, base, here, clock)
    _what_hides(plan, base, runs, clock)
    _race(runs, clock)
    if here is not None:
        results.ledgers(here.done.report, PAGE)
        results.terminal(plan, here.done)


def _answer(
    plan: Plan, base: dp_runs.Basis, here: dp_runs.Kept | None, guess: chrome.Guess
) -> None:
    """The share asked for, on each clock there is; and the proof that the sum was right."""
    modelled = use(base.step(plan))
    truth = modelled if here is None else here.use("own device")
    chrome.reveal(guess, 100 * truth.share, "%")
    if here is not None:
        results.parity(here.done.report["parity"], plan.dtype)
    shown = {"Model": modelled}
    if here is not None:
        shown["Your run, own devices"] = here.use("own device")
        shown["Your run, wall clock"] = here.use("wall")
    for place, (name, spent) in zip(st.columns(3), shown.items(), strict=False):
        place.metric(name, f"{spent.exposed:.1f} ms")
        place.caption(f"exposed: {_of(spent)}")
    if here is not None:
        st.caption("Means over ranks and steps, the first step left out; the lanes show one step.")


def _trouble(plan: Plan, law: Overlap, source: str) -> None:
    """The two ways to cut badly, named where the reader has reached them."""
    count = messages_a_step(plan)
    latency = count * law.latency / law.comm(count)
    if plan.dp_method == DPMethod.NAIVE:
        st.warning("Naive: no message starts before the backward is over, so nothing hides.")
    elif count == 1:
        st.warning("One bucket is complete only when the backward is over, so nothing hides.")
    elif latency > 0.5:
        st.warning(
            f"{latency:.0%} of the communication is latency, paid {count} times; with larger "
            f"buckets it is paid less often. By the model, {source}."
        )


def _of(spent: Use) -> str:
    return f"{spent.share:.0%} of {spent.comm:.1f} ms in messages, in a step of {spent.step:.0f} ms"


def _one_step(plan: Plan, base: dp_runs.Basis, here: dp_runs.Kept | None, clock: str) -> None:
    """The player, and one rank's lanes: modelled before a run, then the run under the model."""
    st.header("One step", anchor=False)
    modelled = base.step(plan)
    if here is None:
        st.markdown(f"The model's step ({base.source}); **Run** lays a real one under it.")
        chrome.player(modelled, key=f"{PAGE}.model", title=f"{plan.layout}, modelled")
        shown, over = modelled, None
    else:
        trace, shown, over = here.done.trace, here.trace(clock), here.done.model
        view = {"own": here.done.own, "model": over, "step": typical_step(trace)}
        chrome.player(trace, key=f"{PAGE}.run_{here.name}", title=f"Run #{here.number}", **view)
    words = lanes.account(shown)
    if over is not None:
        st.caption(
            "Dashed outlines are modelled, and the model was fitted from this same run: where they "
            "lie close, the model can describe the run, it did not foretell it."
        )
    figure = lanes.bucket_lanes(shown, model=over, dark=chrome.dark())
    chrome.chart(figure, f"Bucket lanes of rank 0. {words}", f"{PAGE}.lanes")
    with st.expander("The lanes in words"):
        st.markdown(words)
    chrome.export(modelled if here is None else here.done.trace, f"dp_{plan.dp_method}", PAGE)


def _what_hides(plan: Plan, base: dp_runs.Basis, runs: list[dp_runs.Kept], clock: str) -> None:
    """Exposed communication against the number of messages: formula, simulator, runs."""
    st.header("How many buckets?", anchor=False)
    measured = [dp_runs.measured_dot(run, clock) for run in runs]
    dots = base.dots(plan) + measured
    badges = [f"modelled: {base.source}; dashed: formula, hollow: simulated"]
    badges += [f"filled: {runs[-1].trace(clock).provenance.badge}"] if runs else []
    words = "; ".join(dot.hover for dot in dots)
    figure = exposure_curve(base.law, dots, badges=badges, dark=chrome.dark())
    chrome.chart(figure, f"Exposed communication by messages a step. {words}", f"{PAGE}.curve")
    st.latex(r"\text{exposed} = \max\left(\frac{T_c}{K},\ T_c - T_b\,(1 - \tfrac1K)\right)")
    law = base.law
    best = law.best(len(units(plan.model)))
    st.markdown(
        f"for K equal buckets under a backward of $T_b$ = {1e3 * law.backward:.1f} ms, where "
        f"$T_c$ = K · {1e3 * law.latency:.2f} ms + {1e3 * law.wire:.2f} ms ({base.source}). "
        "**The last bucket can never hide**: it is complete only when the backward is over. Few "
        f"buckets make it large, many pay a latency each; here {best} would be best (at most one "
        "a unit). Naive (the squares) overlaps nothing and pays one latency a parameter."
    )
    with st.expander("In words"):
        st.markdown("\n".join(f"- {dot.hover}" for dot in dots))
    if runs:
        forget = {"on_click": dp_runs.forget_all, "args": (PAGE,), "type": "tertiary"}
        st.button("Forget my runs", key=f"{PAGE}.forget", **forget)


def _race(runs: list[dp_runs.Kept], clock: str) -> None:
    """The last naive and the last bucketed run on one axis."""
    both = dp_runs.contest(runs)
    if both is None:
        return
    st.header("The race", anchor=False)
    theme.verdict(both.headline, f"{both.words} {dp_runs.sent(runs)}")
    shown = both.wall if clock == "wall" else both.own
    figure = race(shown, called=both.called, dark=chrome.dark())
    chrome.chart(figure, both.words, f"{PAGE}.race_chart")
