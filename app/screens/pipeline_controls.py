"""What the reader chooses in the pipeline arena, and the sentence for what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from functools import lru_cache
from typing import Any

import streamlit as st

from parallel_core.fields import PlanError, parse, real, whole
from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.figures import Figures, figures_of, simulated
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job, Schedule, Times
from parallel_core.trace import Trace
from screens import chrome
from screens.controls import declared, plain

BOUND = "query-params"
NOBODY = "nobody"
MOST_RANKS = 16
MOST_TASKS = 4000  # that a page lays out; each may be three ops and two messages
MINE = "mine"
"""The reader's own schedule, among the names of the others."""
SIZES = {"pp": 4, "microbatches": 8, "virtual_stages": None, "cap": None}


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The times of one microbatch on a rank, in beats, as the reader types them."""

    tf: float = real(1.0, 0.0, 1000.0, "forward of one microbatch on a rank, beats")
    ti: float = real(1.0, 0.0, 1000.0, "its backward for the input, beats")
    tw: float = real(1.0, 0.0, 1000.0, "its backward for the weights, beats")
    tcomm: float = real(0.0, 0.0, 1000.0, "a message between stages: latency only, beats")
    slow: int | None = whole(None, 0, MOST_RANKS - 1, "a rank that takes longer for everything")
    by: float = real(1.5, 0.1, 10.0, "how many times as long the slow rank takes")


CLOCK = {spec.name: spec for spec in fields(Clock)}
LABELS = {
    "pp": "Ranks",
    "microbatches": "Microbatches",
    "virtual_stages": "Stages a rank",
    "cap": "Memory cap, microbatches",
    "tf": "Forward F",
    "ti": "Input half I",
    "tw": "Weight half W",
    "tcomm": "Message latency",
    "slow": "Slow rank",
    "by": "Times as slow",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A schedule under settings; `v` None is the fewest stages a rank that it works with."""

    name: str
    p: int
    m: int
    v: int | None = None
    cap: float | None = None
    clock: Clock = Clock()

    @property
    def schedule(self) -> Schedule:
        """Its line of the table."""
        return SCHEDULES[self.name]

    @property
    def times(self) -> Times:
        """The clock for this many ranks."""
        t = self.clock
        slow = None if t.slow is None or t.slow >= self.p else {t.slow: t.by}
        return Times.even(self.p, tf=t.tf, ti=t.ti, tw=t.tw, tcomm=t.tcomm, slow=slow)

    @property
    def stages_a_rank(self) -> int:
        """v, the fewest where none is chosen."""
        return self.v or self.schedule.fewest

    @property
    def order(self) -> Order:
        """Who computes what, when; raises PlanError naming the rule that forbids it."""
        return _order(self)

    @property
    def seen(self) -> Seen:
        """The order, simulated."""
        return seen(self.order, self.times)


@dataclass(frozen=True)
class Seen:
    """An order under times: its MODELLED trace and its numbers."""

    order: Order
    times: Times
    trace: Trace
    figures: Figures

    @property
    def messages(self) -> int:
        """How many a step sends."""
        return sum(span.op == "send" for span in self.trace.spans)

    @property
    def copies(self) -> float:
        """How often the weights are held, over all ranks together."""
        return sum(map(len, self.order.held)) / self.order.stages

    @property
    def peak(self) -> float:
        """Microbatches in flight on the fullest rank."""
        return max(self.figures.peak_in_flight)


@lru_cache(maxsize=512)
def _order(choice: Choice) -> Order:
    given = Job(p=choice.p, m=choice.m, v=choice.stages_a_rank, times=choice.times, cap=choice.cap)
    return choice.schedule.of(given)


@lru_cache(maxsize=96)
def seen(order: Order, times: Times) -> Seen:
    """`order` simulated; raises nothing for a legal one."""
    trace = simulated(order, times)
    return Seen(order, times, trace, figures_of(trace, order))


def choose() -> Choice | None:
    """The controls; None after the sentence that says what cannot be, and what can."""
    name = one_of("Schedule", "schedule", list(SCHEDULES), "1f1b", help_of=titles)
    places = st.columns(4)
    values = {
        key: _number(place, declared()[key], default)
        for place, (key, default) in zip(places, SIZES.items(), strict=True)
    }
    with st.expander("Times, a slow rank"):
        rows = [st.columns(3) for _ in range(-(-len(CLOCK) // 3))]
        typed = {
            key: _number(rows[at // 3][at % 3], spec, spec.default)
            for at, (key, spec) in enumerate(CLOCK.items())
        }
    p, m = values["pp"], values["microbatches"]
    choice = Choice(
        name=name, p=p, m=m, v=values["virtual_stages"], cap=values["cap"], clock=Clock(**typed)
    )
    return choice if _drawable(choice) else None


def titles(name: str) -> str:
    """What a schedule is, in its own words."""
    return SCHEDULES[name].title


def _drawable(choice: Choice) -> bool:
    """Whether the page can lay it out; else says so in one sentence."""
    try:
        if not 2 <= choice.p <= MOST_RANKS:
            near = min(max(choice.p, 2), MOST_RANKS)
            raise PlanError("pp", choice.p, f"must be from 2 to {MOST_RANKS} on this page", near)
        tasks = 2 * choice.p * choice.m * choice.stages_a_rank
        if tasks > MOST_TASKS:
            fits = max(1, MOST_TASKS // (2 * choice.p * choice.stages_a_rank))
            rule = f"makes {tasks:,} tasks, more than the {MOST_TASKS:,} this page lays out"
            raise PlanError("microbatches", choice.m, rule, fits)
        clock = choice.clock
        if clock.tf + clock.ti + clock.tw <= 0:
            raise PlanError("tf", clock.tf, "leaves no work at all", 1.0)
        if clock.slow is not None and clock.slow >= choice.p:
            rule = f"must be below pp={choice.p}"
            raise PlanError("slow", clock.slow, rule, choice.p - 1)
        _ = choice.order
    except PlanError as error:
        chrome.complain(error, mend=error.field in (*SIZES, *CLOCK))
        return False
    return True


def one_of(label: str, key: str, options: Sequence[str], default: str, **more: Any) -> str:
    """A select box in the URL; a word that is no option is told and dropped."""
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]
    typed = st.query_params.get(key)
    if key not in st.session_state and typed is not None and typed not in options:
        st.error(plain(f"In the address: {key}={typed} is no choice here; {default} is used."))
        del st.query_params[key]
    help_of = more.pop("help_of", None)
    said = st.selectbox(label, options, index=list(options).index(default), key=key, bind=BOUND)
    if help_of is not None:
        st.markdown(help_of(str(said)))
    return str(said)


def _number(place: Any, spec: Field[Any], default: float | None) -> Any:
    """A number of the plan or the clock, checked also where it is typed into the URL."""
    key, meta = spec.name, spec.metadata
    if key not in st.session_state and key in st.query_params:
        try:
            parse(spec, st.query_params[key])
        except PlanError as error:
            st.error(plain(f"In the address: {error}. The default is used instead."))
            del st.query_params[key]
    kind = meta["kind"]
    return place.number_input(
        LABELS[key],
        min_value=kind(meta["low"]),
        max_value=kind(meta["high"]),
        value=None if default is None else kind(default),
        step=1 if kind is int else 0.5,
        format=None if kind is int else "%g",
        placeholder={"virtual_stages": "fewest"}.get(key, "none"),
        key=key,
        bind=BOUND,
        help=meta["help"],
    )


def allowed(choice: Choice) -> dict[str, Order | PlanError]:
    """Every schedule of the table under these settings: its order, or why it refuses."""
    found: dict[str, Order | PlanError] = {}
    for name in SCHEDULES:
        try:
            found[name] = replace(choice, name=name).order
        except PlanError as error:
            found[name] = error
    return found
