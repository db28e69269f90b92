"""P16, the trace inspector: any run, ours or a real job's: who waited for whom, and how long."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from parallel_core.analysis.compare import compare
from parallel_core.analysis.critical_path import critical_path
from parallel_core.analysis.exposed import exposed
from parallel_core.analysis.stuck import stuck
from parallel_core.analysis.waits import totals, waits
from parallel_core.cases import program_of
from parallel_core.plan import Plan, PlanError
from parallel_core.quantities import time_text
from parallel_core.replay import replay
from parallel_core.trace import Kind, Trace
from parallel_core.views import charts, tables
from screens import chrome, library, results

NOBODY = "nothing"


def page() -> None:
    """Choose a trace, look at it, hold it against another, take it elsewhere."""
    chrome.header(
        "Trace inspector",
        "Load a run and see where its time went: work, waiting for a peer, or the wire.",
    )
    own = library.own()
    _put_forward(list(own))
    traces = {**library.shipped(), **own}
    first, second = _choose(list(traces))
    trace = traces[first]
    _stuck(trace)
    st.header("Timeline", anchor=False)
    step = results.step_choice(trace, "step")
    part = trace if step is None else trace.only(step)
    chrome.player(trace, key="inspected", own=_own_device(first, trace), step=step, title=first)
    chrome.export(trace, "trace", "inspector")
    _section(part)
    if second is not None:
        _against(traces[second], second, trace, first)


def _put_forward(own: list[str]) -> None:
    """What the reader just loaded is what they want to see; of several, the last against the first.

    Before the widgets exist their state may be set.
    """
    new = [name for name in own if name not in st.session_state.get("inspector.seen", ())]
    st.session_state["inspector.seen"] = own
    if new:
        st.session_state["trace"] = new[-1]
        st.session_state["before"] = new[0] if len(new) > 1 else NOBODY


def _choose(names: list[str]) -> tuple[str, str | None]:
    """The trace to look at and the one to hold it against, both kept in the URL."""
    left, right = st.columns(2)
    with left:
        first = st.selectbox("Trace", names, key="trace", bind="query-params")
    with right:
        others = [NOBODY, *(name for name in names if name != first)]
        second = st.selectbox("Compare with", others, key="before", bind="query-params")
    return first, None if second == NOBODY else second


def _own_device(name: str, trace: Trace) -> Trace | None:
    """The trace on own devices, if it is of a plan of ours; computed once a session."""
    kept: dict[str, Trace | None] = st.session_state.setdefault("own device", {})
    marked = f"{name} {trace.provenance.badge} {len(trace.spans)}"
    if marked not in kept:
        kept[marked] = _replayed(trace)
    return kept[marked]


def _replayed(trace: Trace) -> Trace | None:
    if not trace.provenance.plan or trace.kind not in (Kind.MEASURED, Kind.RECORDED):
        return None
    try:
        plan = Plan.of(**trace.provenance.plan)
        return replay(plan, program_of(plan), trace)
    except (PlanError, TypeError, KeyError, IndexError):
        return None  # the plan in a stranger's file need not be the one that ran


def _stuck(trace: Trace) -> None:
    for hang in stuck(trace):
        st.error(chrome.plain(f"This job hangs: {hang.sentence}."))


def _section(trace: Trace) -> None:
    st.header("Where the time went", anchor=False)
    chosen = st.segmented_control(
        "Question", list(SECTIONS), default=next(iter(SECTIONS)), key="ask", bind="query-params"
    )
    SECTIONS[chosen or next(iter(SECTIONS))](trace)


def _waiting(trace: Trace) -> None:
    """Wait, queue and wire, per rank and message by message."""
    found = waits(trace)
    if not found:
        st.info("No message in this trace has all its ends, so waiting cannot be told from wire.")
        return
    sums = totals(found)
    waited, wire = sum(r.wait_ns for r in sums), sum(r.wire_ns for r in sums)
    queue = sum(r.queue_ns for r in sums)
    st.markdown(
        f"In messages, the ranks spent **{time_text(waited)} waiting** for a peer to post its "
        f"part, {time_text(queue)} until its link was free and "
        f"**{time_text(wire)} on the wire**, summed over ranks."
    )
    chrome.chart(
        charts.wait_wire(trace, dark=chrome.dark()),
        f"Waiting {time_text(waited)}, link busy {time_text(queue)}, wire {time_text(wire)}",
        "wait_wire",
    )
    chrome.table(tables.total_rows(sums))
    st.markdown("**Message by message**, the longest wait first")
    st.dataframe(tables.wait_rows(found), height=320, hide_index=True)


def _path(trace: Trace) -> None:
    """The chain of spans that set the makespan."""
    path = critical_path(trace)
    st.markdown(f"{chrome.sentence(path.account)} Press **c** in the player to see it drawn.")
    chrome.table(
        [{"op": op, "share of the path": f"{share:.1%}"} for op, share in path.shares.items()]
    )
    st.markdown("**Piece by piece**, in order of time")
    st.dataframe(tables.path_rows(path, trace.start), height=320, hide_index=True)


def _use(trace: Trace) -> None:
    """Compute, exposed and hidden communication, idle."""
    use = exposed(trace)
    share = use.hidden_ns / use.comm_ns if use.comm_ns else 0.0
    st.markdown(
        f"Of {time_text(use.comm_ns)} in communication, **{time_text(use.hidden_ns)} "
        f"({share:.0%}) was hidden** under compute and **{time_text(use.exposed_ns)} exposed**; "
        f"the ranks did not compute for {use.bubble_of_total:.0%} of their total time."
    )
    figure = charts.utilisation(trace, dark=chrome.dark())
    chrome.chart(figure, f"Not computing: {use.bubble_of_total:.0%} of the total", "use")
    chrome.table(tables.use_rows(use))


def _memory(trace: Trace) -> None:
    """Live bytes over time, where the trace knows them."""
    peak = max((span.memory for span in trace.spans), default=0)
    if not peak:
        st.info("This trace does not say how much memory was live.")
        return
    figure = charts.memory_over_time(trace, dark=chrome.dark())
    chrome.chart(figure, f"Live memory; the highest peak is {peak:,} bytes", "memory")


def _ops(trace: Trace) -> None:
    """The median duration of every op."""
    st.markdown("The median over the steps an op ran, the longest first.")
    st.dataframe(tables.median_rows(trace), height=420, hide_index=True)


SECTIONS: dict[str, Callable[[Trace], None]] = {
    "Wait or wire": _waiting,
    "Critical path": _path,
    "Exposed": _use,
    "Memory": _memory,
    "Ops": _ops,
}


def _against(before: Trace, before_name: str, after: Trace, after_name: str) -> None:
    """Two runs: the other one's player, both in four numbers, and op by op."""
    both = compare(before, after)
    st.header("Compared", anchor=False)
    names = f"Before: *{chrome.plain(before_name)}*. After: *{chrome.plain(after_name)}*."
    st.markdown(f"{names} {chrome.sentence(both.account)}")
    chrome.table(
        [
            {
                "": word,
                "steps": side.steps,
                "a step": time_text(side.step_ns),
                "communication": time_text(side.comm_ns),
                "exposed": time_text(side.exposed_ns),
                "peak bytes": f"{side.peak_bytes:,}",
            }
            for word, side in (("before", both.before), ("after", both.after))
        ]
    )
    step = before.steps[-1] if len(before.steps) > 1 else None
    chrome.player(before, key="before.player", step=step, title=before_name)
    st.dataframe(tables.compare_rows(both), height=420, hide_index=True)
