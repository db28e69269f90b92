"""Two runs side by side: the router as it leans, and the same cured."""

from __future__ import annotations

from typing import Any

import streamlit as st

from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text, time_text
from parallel_core.request import Request
from parallel_core.views import expert_curves as curves
from parallel_core.views import expert_grid, expert_times
from parallel_core.views.expert_rows import loads, tokens
from screens import chrome
from screens import experts_runs as runs
from screens.experts_controls import DEFAULTS, PAGE, plain
from screens.experts_grid import mount
from screens.experts_runs import Ran

CURES: dict[str, dict[str, Any]] = {
    "a bias that loads move": {"balance": "bias", "bias_rate": DEFAULTS["bias_rate"]},
    "an auxiliary loss": {"balance": "aux", "aux_loss": DEFAULTS["aux_loss"]},
    "a capacity of 1.0": {"router": "capacity", "capacity": 1.0},
    "experts choose": {"router": "expert-choice", "capacity": 1.0},
}


def plans(plan: Plan) -> dict[str, Plan]:
    """The plan with nothing that evens its loads, and with the cure: the reader's own numbers
    where the plan has that cure already."""
    name = str(st.session_state.get("cure") or next(iter(CURES)))
    bare, fields = plain(plan), CURES[name]
    switch = next(iter(fields))
    if plan.flat()[switch] == fields[switch]:
        fields = {field: plan.flat()[field] for field in fields}
    return {"uncured": bare, name: bare.but(**fields)}


def asked_pair(request: Request) -> list[Request]:
    """A run of each."""
    both = plans(request.plan).values()
    return [Request.of(**plan.flat(), steps=request.steps) for plan in both]


def pair(request: Request) -> None:
    """Both runs, once both are there."""
    st.header("Uncured and cured", anchor=False)
    found = {name: runs.latest(plan) for name, plan in plans(request.plan).items()}
    both = {name: ran for name, ran in found.items() if ran is not None}
    missing = [name for name in found if name not in both]
    if missing:
        st.markdown(
            f"Not run yet: {', '.join(missing)}. *Run uncured, then cured* makes both, one after "
            "the other."
        )
        return
    steps = {name: ran.steps for name, ran in both.items()}
    badges = [f"{name}: {ran.kept.badge}" for name, ran in both.items()]
    dark = chrome.dark()
    said = " ".join(curves.in_words(name.capitalize(), each) for name, each in steps.items())
    chrome.chart(curves.imbalance(steps, badges, dark=dark), said, f"{PAGE}.pair.imbalance")
    if any(step["dropped"] for each in steps.values() for step in each):
        chrome.chart(curves.dropped(steps, badges, dark=dark), said, f"{PAGE}.pair.dropped")
    st.markdown(said)
    for place, (name, ran) in zip(st.columns(2), both.items(), strict=True):
        with place:
            _last(name, ran)
    columns = {name: _figures(ran) for name, ran in both.items()}
    names = list(next(iter(columns.values())))
    chrome.table(
        [{"figure": name, **{who: each[name] for who, each in columns.items()}} for name in names]
    )
    st.markdown(
        "Bias and loss teach the router, step by step, and drop nothing. Capacity limits the "
        "fullest at once and pays with tokens. Where experts choose, each has as many; but a token "
        "may have none, and an expert looks at tokens that come later."
    )


def _last(name: str, ran: Ran) -> None:
    """The last step of the first layer, as a grid."""
    step = int(ran.steps[-1]["step"])
    found = expert_grid.few(tokens(ran.record, step=step, layer=0), 32)
    st.markdown(f"**{name.capitalize()}**, step {step}, layer 0")
    counts = loads(ran.record, step=step, layer=0)
    if found and len(counts.kept) <= expert_grid.MOST_EXPERTS:
        kind, dark = ran.kept.done.trace.kind, chrome.dark()
        picture = expert_grid.Picture(tokens=found, loads=counts, kind=kind, dark=dark)
        mount(picture, f"{ran.kept.name} {step}", f"pair.{name}")


def settled(steps: curves.Steps) -> float:
    """The imbalance of the last half of the steps, mean: one step alone may be lucky."""
    half = steps[len(steps) // 2 :]
    return float(sum(step["rank_imbalance"] for step in half) / len(half))


def _figures(ran: Ran) -> dict[str, str]:
    """The numbers of a run that a cure is to change, and those it may cost."""
    last, done = ran.steps[-1], ran.kept.done
    shares = ran.shares(int(last["step"]))
    slow = expert_times.slowest(shares)
    waited = sum(share.wait_ns for share in shares) / len(shares)
    asked, lost = (sum(step[key] for step in ran.steps) for key in ("asked", "dropped"))
    return {
        "fullest rank / mean, first step": f"{ran.steps[0]['rank_imbalance']:.2f}",
        "the same, mean of the last half": f"{settled(ran.steps):.2f}",
        "choices dropped": f"{100 * lost / asked:.1f} %",
        "slowest rank's experts, last step": time_text(slow.work_ns),
        "a rank waits in all-to-alls, last step": time_text(waited),
        "handed to all-to-alls by the fullest rank": bytes_text(max(ran.handed)),
        "a step on own devices": time_text(done.own.makespan / max(len(ran.steps), 1)),
        "loss of the last step": f"{done.trace.metrics[-1]['loss']:.4f}",
    }
