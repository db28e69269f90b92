"""The ping-pong section of P2: what a message between two processes of this machine takes.

A job like any other run: two workers do it, points appear as they are measured, it can be
cancelled, and it ends when nobody looks any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from parallel_core.collectives.ramp import fit_plain, fit_ramp
from parallel_core.cost import Link
from parallel_core.live_link import APART, SIZES, TARGET, law, pings
from parallel_core.program import Op
from parallel_core.quantities import bytes_text, time_text
from parallel_core.views.machine_room import Ping, describe_ping, ping_pong
from screens import chrome, live
from screens.measuring import Measurement

SWEEPS = 3
SECONDS = 0.12  # a size and sweep
FITTED = 3  # sizes before a law is drawn


def measured() -> None:
    """Ping-pong on request: points as they come, then alpha, beta, and a prediction held out."""
    guess = chrome.predict(
        "machine.tiny",
        "Two processes of the machine that runs this page pass eight bytes to and fro. How long "
        "does one message take?",
        unit="µs",
        high=1e6,
    )
    if not guess.settled:
        return
    live.desk().pool.warm()  # so that the button finds a worker ready
    st.markdown(
        f"From 8 bytes to 16 MiB, {SWEEPS} sweeps; a message takes half of a round trip. The "
        "fastest tenth of the quietest sweep counts as the link, the whisker reaches up to the "
        "best median: on a busy machine that is mostly waiting for a core. About five seconds."
    )
    order = sorted({*SIZES, APART}) * SWEEPS
    asked = Measurement(
        "machine",
        "Measure this machine's link",
        (TARGET, 2, {"sizes": order, "seconds": SECONDS}),
        len(order),
        starting="Starting two workers",
    )
    taken = asked.taken(_growing)
    if taken is not None:
        _conclude(_shown(taken.events, "measured: gloo, 2 ranks"), guess)


def _growing(events: Sequence[dict[str, Any]]) -> None:
    _shown(events, "measured: gloo, 2 ranks, still running")


def _shown(events: Sequence[dict[str, Any]], badge: str) -> tuple[Ping, ...]:
    """Draw what has been measured, with the laws as soon as there are points enough."""
    found = pings([events], APART)
    if not found:
        return ()
    laws = [law(name, link) for name, link in _fits(found).items()]
    words = describe_ping(found, laws)
    fitted = "; dashed: fitted to the points" if laws else ""
    chrome.chart(
        ping_pong(found, laws, badge=badge + fitted, dark=chrome.dark()), words, "machine.here"
    )
    with st.expander("In words"):
        st.markdown(words)
    return found


def _fits(found: Sequence[Ping]) -> dict[str, Link]:
    points = [(float(ping.bytes), ping.seconds) for ping in found if ping.fitted]
    if len(points) < FITTED:
        return {}
    return {"alpha-beta": fit_plain(points), "with a ramp": fit_ramp(points)}


def _conclude(found: Sequence[Ping], guess: chrome.Guess) -> None:
    """alpha and beta, and the message that no fit has seen: predicted, and as it ran."""
    smallest = min(found, key=lambda ping: ping.bytes)
    chrome.reveal(guess, 1e6 * smallest.seconds, "µs")
    plain = _fits(found)["alpha-beta"]
    apart = next(ping for ping in found if not ping.fitted)
    foretold = plain.seconds(Op.SEND, apart.bytes, 2)
    boxes = st.columns(5)
    boxes[0].metric("alpha", time_text(1e9 * plain.alpha))
    boxes[1].metric("beta", f"{plain.beta / 1e9:.3g} GB/s")
    boxes[2].metric("alpha·beta", bytes_text(plain.alpha * plain.beta))
    boxes[3].metric(f"{apart.bytes / 1e6:g} MB, predicted", time_text(1e9 * foretold))
    boxes[4].metric(f"{apart.bytes / 1e6:g} MB, measured", time_text(1e9 * apart.seconds))
    off = foretold / apart.seconds - 1
    st.markdown(
        f"The diamond is in no fit. The line drawn through all the others is {abs(off):.0%} "
        f"too {'slow' if off > 0 else 'fast'} there; a line through its two neighbours alone is "
        "usually nearer, since caches and protocols change with the size."
    )
