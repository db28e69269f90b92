"""The bug museum: famous silent bugs, planted in a real run; who would have noticed?"""

from __future__ import annotations

import streamlit as st

from parallel_core.fields import PlanError
from parallel_core.museum.exhibit import LOSS, NORM, PROBE, Exhibit
from parallel_core.museum.exhibits import EXHIBITS, ROOMS
from parallel_core.museum.request import Visit
from screens import chrome, live
from screens import museum_results as results
from screens import museum_runs as runs
from screens.predict_choice import choose_one, reveal_choice

PAGE, BUG = "museum", "bug"
ANSWERS = {
    (PROBE,): "the probe alone",
    (NORM, PROBE): "the gradient norm and the probe",
    (LOSS, PROBE): "the loss and the probe",
    (LOSS, NORM, PROBE): "all three",
    (): "nobody",
}
"""Who notices -> the words of it."""


def page() -> None:
    """The gallery; or one exhibit: what it does, a guess, a real run, and who noticed."""
    chrome.header(
        "Bug museum",
        "Bugs that people trained with: the loss looked right. Each can be planted in a real run "
        "here, and held against one process.",
    )
    live.warm()
    name = st.query_params.get(BUG)
    if name is not None and name not in EXHIBITS:
        st.error(f"There is no exhibit {chrome.plain(name[:60])} here.")
        st.query_params.pop(BUG)
        name = None
    if name is None:
        _gallery()
    else:
        _exhibit(EXHIBITS[name])


# -- the gallery -----------------------------------------------------------------------------------


def _gallery() -> None:
    """Every exhibit by its title, its layout, and where it was met."""
    st.markdown(
        f"{len(EXHIBITS)} exhibits. A bug is in a run only if this page, the command "
        "`shardlab museum` or the lesson asks for it by name, and the run's badge says so."
    )
    seen = {kept.visit.bug for kept in runs.kept_visits()}
    for room, exhibits in ROOMS.items():
        st.header(room, anchor=False)
        places = st.columns(3)
        for at, each in enumerate(exhibits):
            with places[at % 3], st.container(border=True):
                see = {"on_click": _go, "args": (each.name,), "type": "tertiary"}
                st.button(each.title, key=f"{PAGE}.see.{each.name}", **see)
                met = ", ".join(source.name for source in each.sources)
                st.caption(f"{each.plan().layout}. Met in {met}." + " Seen." * (each.name in seen))


def _go(name: str | None) -> None:
    runs.forget_name()
    if name is None:
        st.query_params.pop(BUG, None)
    else:
        st.query_params[BUG] = name


# -- one exhibit -----------------------------------------------------------------------------------


def _exhibit(exhibit: Exhibit) -> None:
    """Ask, run, show."""
    back = {"on_click": _go, "args": (None,), "icon": ":material/arrow_back:"}
    st.button("All exhibits", key=f"{PAGE}.back", **back)
    st.header(exhibit.title, anchor=False)
    st.markdown(exhibit.wrong)
    visit = _choose(exhibit)
    here = runs.current()
    going = here is not None and here.going
    key = f"{PAGE}.{exhibit.name}"
    guess = choose_one(
        key,
        f"{visit.plan('adamw', 'right').layout}, AdamW. A curve notices if the bug moves it "
        "further than another seed would; the probe, if the gradients are not those of one "
        "process. Who notices?",
        tuple(ANSWERS.values()),
    )
    words = f"Plant it and run {visit.steps} steps"
    if st.button(words, type="primary", key=f"{PAGE}.run", disabled=going):
        if not guess.settled:
            chrome.settle(key, guess.value)
        _start(visit)
    if here is not None and going:
        runs.watch(here)
        return
    done = runs.find(visit)
    if done is None:
        if guess.settled:
            st.markdown("Now run it: nothing is drawn here that was not measured.")
        return
    found = done.report["optimizers"]["adamw"]
    noticed = tuple(found["noticed_by"])
    if noticed in ANSWERS:
        answers = tuple(ANSWERS.values())
        why = exhibit.silent if not visit.asleep else f"With {exhibit.sleeps} the code is right."
        reveal_choice(guess, answers, list(ANSWERS).index(noticed), why)
    results.show(done)


def _choose(exhibit: Exhibit) -> Visit:
    """How long, and whether on the layout where the bug sleeps."""
    places = st.columns(3)
    shared = {"bind": "query-params"}
    with places[0]:
        steps = st.number_input("Steps of each training", 1, 200, 20, 1, key="steps", **shared)
    with places[1]:
        seed = st.number_input("Seed", 0, 2**31 - 2, 0, 1, key="seed", **shared)
    with places[2]:
        asleep = st.toggle(
            f"Asleep: {exhibit.sleeps}",
            key="asleep",
            help="The layout on which the same wrong code is right: where it was written.",
            **shared,
        )
    return Visit(bug=exhibit.name, steps=int(steps), seed=int(seed), asleep=bool(asleep))


def _start(visit: Visit) -> None:
    try:
        visit.checked()
    except PlanError as error:
        chrome.complain(error, mend=False)
        return
    runs.start(visit)
