"""The policies side by side: bytes won, time paid, the same gradients; and A against B."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import streamlit as st

from parallel_core.fields import PlanError
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text, time_text
from parallel_core.replay import fit_link_of, replay
from parallel_core.sizes import step_flops
from parallel_core.views.river_prices import (
    ALL,
    POLICIES,
    Price,
    Ran,
    account,
    paid,
    room_for,
    same_sums,
    steps_ms,
    times,
    trade,
    won,
)
from screens import chrome
from screens import shard_bench_runs as runs
from screens.shard_bench_pair import pinned

PAGE = "memory"


def policy_of(plan: Plan) -> str:
    """The name of a plan's policy, or its fields."""
    mine = {name: getattr(plan, name) for name in POLICIES[ALL]}
    named = next((name for name, fields in POLICIES.items() if fields == mine), None)
    also = ", offload" if plan.offload else ""
    return named or f"{plan.recompute}, every {plan.recompute_every}{also}"


def prices(plan: Plan) -> list[Price]:
    """Every policy that the plan allows, with its last run if it has one; keeping all first."""
    found = dict(_plans(plan))
    kept = {name: runs.latest(each, PAGE) for name, each in found.items()}
    ran = _ran([run for run in kept.values() if run])
    return [_price(name, each, ran.get(kept[name].name) if kept[name] else None)
            for name, each in found.items()]  # fmt: skip


def _plans(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """The chosen plan under each policy, and as it is if it is none of them."""
    for name, fields in POLICIES.items():
        try:
            yield name, plan.but(**fields)
        except PlanError:
            continue  # offloading with one layer, say
    if policy_of(plan) not in POLICIES:
        yield policy_of(plan), plan


def _price(name: str, plan: Plan, ran: Ran | None) -> Price:
    peak = runs.most(plan)
    return Price(
        name=name,
        plan=plan,
        peak=max(peak["total"]),
        activations=max(peak["activations"]),
        modelled=runs.modelled(plan).makespan,
        flops=_flops(plan),
        ran=ran,
    )


@lru_cache(maxsize=64)
def _flops(plan: Plan) -> float:
    return step_flops(plan)


def _ran(kept: Sequence[runs.Kept]) -> dict[str, Ran]:
    """What each run measured, by its name; all are replayed over one link, so that they compare."""
    names = tuple(run.name for run in kept)
    known: dict[tuple[str, ...], dict[str, Ran]] = st.session_state.setdefault(f"{PAGE}.ran", {})
    if names not in known:
        known.clear()
        link = fit_link_of([(run.done.trace, runs.program(run.plan)) for run in kept])
        known[names] = {
            run.name: Ran(
                peak=max(run.peak or [0]),
                activations=max(run.done.report["ledger"]["memory"]["peak"]["activations"]),
                wall=steps_ms(run.done.trace),
                own=steps_ms(replay(run.plan, runs.program(run.plan), run.done.trace, link=link)),
                sums=[(row["loss"], row["grad_norm"]) for row in run.done.report["steps"]],
                badge=run.badge,
            )
            for run in kept
        }
    return known[names]


def fits(plan: Plan, found: Sequence[Price], capacity: float | None) -> None:
    """The failure a reader can reach: a rank that is too small, and what would fit."""
    if capacity is None:
        return
    peak = max(runs.most(plan)["total"])
    if peak <= capacity:
        st.success(f"It fits: at most {bytes_text(peak)} of {bytes_text(capacity)}.")
        return
    room = room_for(found, capacity)
    way = "No policy fits; cut the model over more ranks, or the batch into more microbatches."
    if room:
        step = room[0].modelled / found[0].modelled
        way = f"{room[0].name.capitalize()} would fit, at {step:.2f} times the modelled step."
    st.error(
        f"Out of memory: {policy_of(plan)}, {plan.layout} needs up to {bytes_text(peak)} on a rank "
        f"that has {bytes_text(capacity)}. {way}"
    )


def show(found: Sequence[Price], capacity: float | None) -> None:
    """Memory won against time paid, and the proof that nothing else changed."""
    st.header("Bytes won, time paid", anchor=False)
    ran = [price for price in found if price.ran]
    clock = "own"
    if ran:
        words = {"own": "own devices", "wall": "wall clock"}
        clock = st.radio(
            "Clock of the runs", list(words), format_func=words.__getitem__, horizontal=True,
            key="river_clock", bind="query-params",
        )  # fmt: skip
    figure = trade(found, clock=clock, capacity=capacity, dark=chrome.dark())
    chrome.chart(figure, f"Peak memory against step time. {account(found)}", f"{PAGE}.trade")
    chrome.table(won(found))
    chrome.table(paid(found))
    _same(found)
    st.markdown(
        "A full recomputation runs every layer's forward a second time: at most a third of a "
        "step's FLOPs more, since a backward costs two forwards. Selective runs the core of "
        "attention alone again, which is much memory and few FLOPs; but FLOPs do not see softmax, "
        "whose price is reading and writing the scores. Offloading computes nothing twice; it pays "
        "where copies are not over when their bytes are needed."
    )
    with st.expander("The figure in words"):
        st.markdown(account(found))


def _same(found: Sequence[Price]) -> None:
    same = same_sums(found)
    if same:
        st.markdown(
            "**Losses and gradient norms of all steps are equal to the last bit** in every policy "
            "that ran: what is computed again is the same operations on the same numbers."
        )
    elif same is False:
        st.error("The policies' losses or gradient norms differ: they should be equal to the bit.")
    else:
        st.markdown(
            "*Run every policy* to lay the measured peaks and step times over the predicted, and "
            "to see whether the gradients are the same."
        )


def pair(plan: Plan) -> None:
    """The chosen plan beside the pinned one, number by number."""
    other = pinned()
    if other is None or other == plan:
        return
    st.header("A against B", anchor=False)
    both = {"A, chosen": plan, "B, pinned": other}
    kept = {who: runs.latest(each, PAGE) for who, each in both.items()}
    ran = _ran([run for run in kept.values() if run])
    columns = {
        who: _figures(_price(policy_of(each), each, ran.get(run.name) if run else None))
        for (who, each), run in zip(both.items(), kept.values(), strict=True)
    }
    names = list(columns["A, chosen"])
    chrome.table(
        [{"figure": name, **{who: col[name] for who, col in columns.items()}} for name in names]
    )
    a, b = (ran.get(run.name) if run else None for run in kept.values())
    if a and b:
        ratio, low, high = times(a.own, b.own)
        st.markdown(
            f"On own devices A's step is **{ratio:.2f} times** B's ({low:.2f} to {high:.2f}), and "
            f"its measured peak {a.peak / b.peak:.2f} times."
        )


def _figures(price: Price) -> dict[str, str]:
    """What a plan promises, and what its last run measured."""
    ran = price.ran
    none = "not run yet"
    return {
        "policy": price.name,
        "plan": price.plan.layout,
        "microbatches": f"{price.plan.microbatches}",
        "peak of a rank, predicted": bytes_text(price.peak),
        "peak, measured": bytes_text(ran.peak) if ran else none,
        "activations at their peak, predicted": bytes_text(price.activations),
        "activations, measured": bytes_text(ran.activations) if ran else none,
        "a step, modelled": time_text(price.modelled),
        "FLOPs of a step": f"{price.flops:.4g}",
        "steps by the wall clock": f"{min(ran.wall):.1f} to {max(ran.wall):.1f} ms"
        if ran
        else none,
        "steps on own devices": f"{min(ran.own):.1f} to {max(ran.own):.1f} ms" if ran else none,
    }
