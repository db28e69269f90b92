"""Claims about the machine room: its levels, its figures, its page, and the link it measures."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from pages import in_looks
from streamlit.testing.v1 import AppTest

from parallel_core.hardware.hierarchy import GENERATIONS, hierarchy
from parallel_core.trace import Kind
from parallel_core.views.machine_room import (
    LATENCY,
    Law,
    Level,
    Ping,
    describe_levels,
    describe_ping,
    levels,
    ping_pong,
    quoted,
)

APP = Path(__file__).parent.parent / "app"
ROOMS = {
    "Levels": (3, 1, False),
    "Topologies": (2, 1, False),
    "This machine": (0, 0, True),
    "SuperPods": (0, 2, False),
    "Published curves": (1, 0, False),
}  # section -> figures, tables, the button that measures

# ---------------------------------------------------------------------------- levels


@pytest.mark.parametrize("server", GENERATIONS)
def test_each_level_down_is_no_wider(server):
    """From registers (where published) or memory to Ethernet; bandwidth never rises."""
    rungs = hierarchy(server)
    first = ("registers", 10) if server == "A100" else ("device memory", 6)
    assert (rungs[0].name, len(rungs)) == first and rungs[-1].name == "Ethernet, TCP"
    for near, far in pairwise(rungs):
        assert 1 <= near.bandwidth / far.bandwidth <= 18, (near.name, far.name)
    assert all(rung.source and rung.latency_source for rung in rungs)


def test_the_levels_are_the_published_ones():
    """Cycles of table IV at 1.41 GHz, HBM and NVLink of the data sheets, a GiB over them."""
    chip = {rung.name: rung for rung in hierarchy("A100")}
    cycles = {name: round(chip[name].latency * 1.41e9) for name in ("L1 cache", "L2 cache")}
    assert cycles == {"L1 cache": 33, "L2 cache": 200}
    rungs = {rung.name: rung for rung in hierarchy("H100")}
    assert rungs["device memory"].bandwidth == 3.35e12
    milliseconds = [
        round(1e3 * rungs[name].seconds(2**30), 1)
        for name in ("NVLink and its switch", "InfiniBand, one leaf", "Ethernet, TCP")
    ]
    assert milliseconds == [2.4, 21.5, 85.9]


# ---------------------------------------------------------------------------- figures


def test_a_bar_a_level_in_groups_with_words_and_source():
    """Dotted where quoted, dashed where modelled; a row is left free before every group."""
    bars = [
        Level(name="a", inside="inside x", value=1e-8, words="10 ns", source="s1"),
        Level(name="b", inside="inside x", value=1e-7, words="100 ns", source="s2"),
        Level(name="c", inside="inside y", value=1e-6, words="1 µs", source="s3",
              kind=Kind.MODELLED),
    ]  # fmt: skip
    figure = levels(bars, LATENCY, badge="quoted: somebody")
    assert [trace.line.dash for trace in figure.data] == ["dot", "dot", "dash"]
    assert list(figure.layout.yaxis.tickvals) == [1, 2, 4]
    said = [note.text for note in figure.layout.annotations]
    assert {"<i>inside x</i>", "<i>inside y</i>", " 10 ns", "quoted: somebody"} <= set(said)
    assert "s3" in figure.data[2].text
    assert describe_levels(bars) == "a 10 ns; b 100 ns; c 1 µs."


def test_points_are_solid_and_laws_dashed_over_them():
    """The size in no fit is a diamond; where alpha beta lies on the axis it is marked."""
    pings = [
        Ping(bytes=8, seconds=1e-5, low=1e-5, high=2e-5),
        Ping(bytes=1 << 20, seconds=1e-3, low=1e-3, high=2e-3, fitted=False),
    ]
    law = Law(name="alpha-beta", words="w", seconds=lambda m: 1e-5 + m / 1e9, half=1e4)
    figure = ping_pong(pings, [law], badge="measured: here")
    assert [trace.mode for trace in figure.data] == ["lines", "markers", "markers"]
    assert figure.data[0].line.dash == "dash" and figure.data[2].marker.symbol == "diamond"
    assert any("alpha·beta 9.77 KiB" in (n.text or "") for n in figure.layout.annotations)
    far = Law(name="alpha-beta", words="w", seconds=law.seconds, half=1e12)
    assert not ping_pong(pings, [far], badge="b").layout.shapes
    words = describe_ping(pings, [law])
    assert "1 MiB: 1 ms, in no fit." in words and "alpha-beta: w." in words
    assert describe_ping([]) == "Nothing has been measured yet."


def test_published_points_are_dotted_and_grey_and_errors_are_told():
    """Each law's hover says how far it is from the quoted bandwidth."""
    rows = [
        {"bytes": 1024, "quoted": 1e9, "plain": 1.5e9},
        {"bytes": 2048, "quoted": 2e9, "plain": 1e9},
    ]
    figure = quoted(rows, {"plain": "alpha-beta"}, badge="quoted: x")
    assert [trace.line.dash for trace in figure.data] == ["dot", "dash"]
    assert list(figure.data[1].customdata) == ["1 KiB, +50 %", "2 KiB, -50 %"]


# ---------------------------------------------------------------------------- the page


def _script():
    from screens import machine_room

    machine_room.page()


@pytest.fixture
def opened(monkeypatch):
    """A function that opens the page with these URL parameters, its prediction skipped."""
    monkeypatch.syspath_prepend(str(APP))

    def open_page(**query):
        page = AppTest.from_function(_script, default_timeout=60)
        for name, value in query.items():
            page.query_params[name] = value
        page.run()
        for button in page.button:
            if button.label == "Skip":
                button.click().run()
                break
        assert not page.exception
        return page

    return open_page


@pytest.mark.parametrize("room", ROOMS)
def test_every_section_opens(opened, room):
    """The section named in the URL is drawn: its figures, its tables, its button."""
    page = opened(room=room)
    buttons = [button.label for button in page.button]
    drawn = (
        len(page.get("plotly_chart")), len(page.table), "Measure this machine's link" in buttons,
    )  # fmt: skip
    assert drawn == ROOMS[room]


def test_the_instrument_opens_after_the_guess(opened):
    """No figure before the guess is settled; a locked one is set beside the truth."""
    page = AppTest.from_function(_script, default_timeout=60).run()
    assert not page.get("plotly_chart")
    page.number_input(key="machine.ethernet.number").set_value(10.0).run()
    page.button(key="machine.ethernet.lock").click().run()
    assert len(page.get("plotly_chart")) == 3
    assert any("You said 10 ms; it is 85.91 ms." in text.value for text in page.markdown)


def test_torus_and_fat_tree_stand_beside_each_other(opened):
    """32 cables and 6 hops against 32 and 4, whatever the cable; 4,096 ranks are not drawn."""
    page = opened(room="Topologies", cable="ethernet-100")
    rows = page.table[0].value.set_index("topology")
    assert list(rows.loc["torus:4x4x4"])[1::2][:2] == [32, 6]
    assert list(rows.loc["fat-tree:64"])[1::2][:2] == [32, 4]
    large = opened(room="Topologies", ranks="4096")
    assert len(large.get("plotly_chart")) == 1
    assert any("drawn up to 256 ranks" in text.value for text in large.markdown)


def test_nonsense_in_the_url_is_dropped(opened):
    """A server that does not exist and a message of no size leave the page standing."""
    assert len(opened(server="<script>", message="-1").get("plotly_chart")) == 3


def test_the_page_loads_no_torch():
    """Everything but the ping-pong is formulas; that runs in other processes."""
    code = (
        f"import sys; sys.path.insert(0, {str(APP)!r})\n"
        "from screens import machine_room; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.live
def test_it_measures_this_machine(opened):
    """Points appear while it runs; in the end alpha, beta, and 3 MB predicted and measured."""
    page = opened(room="This machine")
    page.button(key="machine.measure").click().run()
    seen, end = set(), time.monotonic() + 90
    while not page.metric and time.monotonic() < end:
        seen |= {len(page.get("plotly_chart"))}
        time.sleep(0.5)
        page.run()
    labels = [box.label for box in page.metric]
    assert labels == ["alpha", "beta", "alpha·beta", "3 MB, predicted", "3 MB, measured"]
    assert len(page.get("plotly_chart")) == 1 and 0 in seen
    assert not page.exception and not page.error


@pytest.mark.browser
@in_looks((1280, 2400, "light"), (1280, 2400, "dark"), (390, 3000, "light"))
def test_the_page_is_clean_in_a_browser(tab):
    """Every section: no error, nobody else asked, no sideways scroll, what axe judges content."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    streamlits_own = {"list", "listitem", "presentation-role-conflict"}
    for room in ROOMS:
        page = tab.open(f"/machine-room?room={room}", "Machine room")
        skip = page.get_by_role("button", name="Skip")
        if skip.count():
            skip.click()
            tab.settle()
        page.wait_for_timeout(400)
        wide = page.evaluate(
            "[...document.querySelectorAll('html, [data-testid=stMain]')]"
            ".map(e => e.scrollWidth - e.clientWidth)"
        )
        found = axe.Axe().run(page).response["violations"]
        ours = {v["id"]: [n["html"][:160] for n in v["nodes"]] for v in found}
        assert {n: nodes for n, nodes in ours.items() if n not in streamlits_own} == {}, room
        assert max(wide) <= 0, room
    assert tab.errors == []
    assert tab.strangers() == []
