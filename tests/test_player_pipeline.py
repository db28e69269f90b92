"""The player on pipelines: stages, ports, units and ramps are the order's own; races are fair."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from demo_trace import dp_step

from parallel_core.pipeline import SCHEDULES
from parallel_core.pipeline.figures import Figures, figures_of, simulated
from parallel_core.pipeline.order import Order
from parallel_core.pipeline.schedule import Job, Times
from parallel_core.program import Lane
from parallel_core.trace import Kind, Trace
from parallel_core.views import palette
from parallel_core.views.account import account, wait_text
from parallel_core.views.causes import message_ids, ordered, waits
from parallel_core.views.player import (
    html,
    payload,
    race_html,
    race_payload,
    show_race,
    source,
)
from parallel_core.views.reading import BEAT, Reading, Units
from parallel_core.views.stages import ports, ramps, slots, stages
from parallel_core.views.svg import timeline

NODE = shutil.which("node")
WIDE = {"width": 1280, "height": 900}
ON_PAPER: Reading = {"unit": "beats", "memory": "microbatches"}


def made(name: str, *, p: int = 4, m: int = 8, tcomm: float = 0.0) -> tuple[Order, Trace, Figures]:
    """A schedule of the table, simulated."""
    schedule = SCHEDULES[name]
    times = Times.even(p, tcomm=tcomm)
    order = schedule.of(Job(p=p, m=m, v=schedule.fewest, times=times, cap=p))
    trace = simulated(order, times)
    return order, trace, figures_of(trace, order)


def column(layer: dict[str, Any], name: str, *, sums: bool = False) -> list[int]:
    """A column as it was before it was packed."""
    found = layer["columns"][name]
    values = found if isinstance(found, list) else [found] * layer["n"]
    out: list[int] = []
    for value in values:
        out.append(value + (out[-1] if sums and out else 0))
    return out


# ---- what a trace shows of its order


@pytest.mark.parametrize("name", SCHEDULES)
def test_chunks_ways_and_shares_are_the_orders_own(name: str) -> None:
    """Read off the spans alone: each stage's place on its rank, which end a microbatch entered."""
    order, trace, _ = made(name)
    pipe = stages(trace.spans)
    assert pipe.of == {rank: list(held) for rank, held in enumerate(order.held)}
    assert pipe.share == pytest.approx(order.p / order.stages)
    entered = {order.home[mb, 0] for mb in range(order.m)}
    assert pipe.ways == len(entered)
    layer = payload(trace)["layers"]["trace"]
    rows = ordered(trace)
    for row, (chunk, way) in enumerate(
        zip(column(layer, "chunk"), column(layer, "way"), strict=True)
    ):
        span = rows[row]
        if span.lane != Lane.COMPUTE:
            assert (chunk, way) == (-1, -1)
            continue
        assert f"stage{order.held[span.rank][chunk]}" == span.where
        assert span.mb is not None
        assert way == (order.home[span.mb, 0] != min(entered))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_most_in_flight_is_what_the_figures_say(name: str) -> None:
    """The strip counts whole microbatches, whatever part of one a stage keeps."""
    _, trace, figures = made(name)
    share = payload(trace, **ON_PAPER)["layers"]["trace"]["decks"][0]["share"]
    for rank, row in enumerate(trace.by_rank):
        assert max(s.memory for s in row) * share == pytest.approx(figures.peak_in_flight[rank])
    most = Units(microbatches=True).held(max(figures.peak_in_flight))
    assert f"At most {most} in flight" in account(trace, reading=ON_PAPER)


def test_what_is_no_pipeline_has_no_stages() -> None:
    """A data-parallel step keeps its comm lane, its bytes and its milliseconds."""
    layer = payload(dp_step())["layers"]["trace"]
    assert layer["columns"]["chunk"] == -1 and layer["ports"] == [] and layer["slots"] == [0, 1]
    deck = layer["decks"][0]
    assert (deck["chunks"], deck["ramps"], deck["beat"], deck["share"]) == (0, [], 0, 0)


def test_six_lanes_of_messages_are_two_lines() -> None:
    """What leaves above what comes in; a lane of collectives keeps its own line above both."""
    pipes = ["compute", "to_next", "from_prev", "to_prev", "from_next", "out", "in"]
    assert slots(pipes) == [0, 1, 2, 1, 2, 1, 2] and ports(pipes) == [1, 2]
    assert slots(["compute", "comm", "from_prev", "to_next"]) == [0, 1, 3, 2]
    assert ports(["compute", "comm", "from_prev", "to_next"]) == [2, 3]
    assert ports(["compute", "out", "in"]) == []  # a collective's: its waits are drawn


def test_the_ramps_of_one_f_one_b() -> None:
    """Warm-up until the last rank begins, drain from when the first rank has ended."""
    _, trace, _ = made("1f1b")
    assert ramps(trace) == [[0, 3 * BEAT, 27 * BEAT, 33 * BEAT]]
    twice = tuple(
        replace(s, step=1, t_start=s.t_start + 40 * BEAT, t_done=s.t_done + 40 * BEAT)
        for s in trace.spans
    )
    assert len(ramps(replace(trace, spans=trace.spans + twice))) == 2


# ---- words


def test_bubbles_are_printed_when_given_and_never_made_up() -> None:
    """The numbers are the figures' own; without them there is none."""
    _, trace, figures = made("1f1b")
    said = f"bubble {100 * figures.bubble_fraction:.1f} %, internal "
    assert payload(trace, bubbles=figures)["layers"]["trace"]["decks"][0]["bubble"].startswith(said)
    assert said in timeline(trace, bubbles=figures)
    assert payload(trace)["layers"]["trace"]["decks"][0]["bubble"] == ""
    assert "bubble" not in timeline(trace)


def test_beats_are_beats_everywhere() -> None:
    """One word for a time in account, picture and waits; milliseconds unless asked."""
    _, trace, _ = made("1f1b")
    assert account(trace, reading=ON_PAPER).startswith("4 ranks, 1 step, 33 beats from")
    assert "33 s from" in account(trace)
    words = " ".join(ET.fromstring(timeline(trace, **ON_PAPER)).itertext())
    assert "30 beats" in words and "10 s" not in words
    half = Units(beats=True)
    assert [half.time(BEAT * t) for t in (1, 2.5, 0)] == ["1 beat", "2.5 beats", "0 beats"]


def test_the_papers_colours_are_never_the_default() -> None:
    """They fail the test that the default passes: that is why."""
    assert payload(made("gpipe")[1])["colours"] == "tested"
    scored = [palette.PAPER.get(phase, palette.PHASES[phase]).light for phase in "FIW"]
    assert palette.worst_pair([*scored, palette.PAPER["B"].light])[0] < 15
    shown = timeline(made("zb-h1")[1], colours="paper")
    assert palette.PAPER["F"].light in shown and palette.PHASES["F"].light not in shown


@pytest.mark.skipif(NODE is None, reason="needs node: apt install nodejs")
@pytest.mark.parametrize("name", ["1f1b", "zb-h2", "dualpipe"])
def test_python_and_javascript_say_the_same_about_waits_in_beats(name: str, tmp_path: Path) -> None:
    """One set of sentences, also where a second is a beat."""
    _, trace, _ = made(name, tcomm=0.5)
    rows = ordered(trace)
    want = [wait_text(w, rows, Units.of(ON_PAPER)) for w in waits(rows, message_ids(rows))]
    (tmp_path / "player.mjs").write_text(source())
    layer = payload(trace, **ON_PAPER)["layers"]["trace"] | {"world_size": 4}
    (tmp_path / "layer.json").write_text(json.dumps(layer))
    (tmp_path / "say.mjs").write_text(
        'import { decode, waitText } from "./player.mjs"; import { readFileSync } from "node:fs";'
        'const t = decode(JSON.parse(readFileSync("layer.json")));'
        "console.log(JSON.stringify(t.waits.map((w) => waitText(t, w))));"
    )
    done = subprocess.run(
        [str(NODE), "say.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == want and any("beats" in text for text in want)


# ---- races


def test_a_race_is_the_traces_unchanged_on_one_axis() -> None:
    """Each deck's rows are those of its own payload, its pointers moved by the rows before."""
    runs = {name: made(name)[1] for name in ("1f1b", "zb-h1", "interleaved")}
    race = race_payload(runs, **ON_PAPER)
    both, at, first, messages = race["layers"]["trace"], 0, 0, 0
    assert race["world_size"] == 12 and both["span"] == 33 * BEAT
    waits_at = 0
    for (name, trace), deck in zip(runs.items(), both["decks"], strict=True):
        alone = payload(trace)["layers"]["trace"]
        rows = slice(at, at + alone["n"])
        for key, sums in (("start", True), ("duration", False), ("memory", True), ("chunk", False)):
            assert column(both, key, sums=sums)[rows] == column(alone, key, sums=sums)
        ids = [i if i < 0 else i + messages for i in column(alone, "message")]
        assert column(both, "message")[rows] == ids
        found = len(alone["waits"]["row"])
        for key in ("row", "message", "culprit"):
            want = [row + at for row in alone["waits"][key]]
            assert both["waits"][key][waits_at : waits_at + found] == want
        mine = [s for s in both["segments"] if first <= s[0] < first + trace.world_size]
        assert sum(count for _, _, count in mine) == alone["n"]
        assert (deck["name"], deck["badge"]) == (name, trace.provenance.badge)
        at, first, waits_at = at + alone["n"], first + trace.world_size, waits_at + found
        messages = 1 + max(ids)
    assert at == both["n"]


def test_the_result_of_a_race_is_the_figures_difference() -> None:
    """Who ends first, by how much, and what it costs in memory."""
    (_, plain, slow), (_, other, fast) = made("1f1b"), made("zb-h2")
    text = show_race({"1F1B": plain, "ZB-H2": other}, **ON_PAPER).text
    gap = Units(beats=True).time(BEAT * (slow.makespan - fast.makespan))
    more = max(fast.peak_in_flight) - max(slow.peak_in_flight)
    assert text.startswith(f"ZB-H2 ends its step {gap} before 1F1B")
    assert f"{Units(microbatches=True).held(more)} more at the memory peak" in text
    assert plain.provenance.badge in text and other.provenance.badge in text
    noisy = show_race({"1F1B": plain, "ZB-H2": other}, called=False, **ON_PAPER)
    assert noisy.text.startswith("Too noisy to call") and "Too noisy to call" in noisy.picture
    assert " before " not in noisy.text.partition(".")[0] and '"called":false' in noisy.page
    tie = show_race({"GPipe": made("gpipe")[1], "1F1B": plain}, **ON_PAPER).text
    assert tie.startswith("GPipe and 1F1B end together, with 4 microbatches more at the memory")


def test_runs_race_by_their_typical_steps_in_milliseconds() -> None:
    """Warm-up steps decide nothing; kinds may differ, and each keeps its badge."""
    run, model = dp_step(kind=Kind.MEASURED, steps=3, slow={1: 1.5}), dp_step()
    race = race_payload({"run": run, "model": model})
    assert "ms before run" in race["race"]
    assert [deck["kind"] for deck in race["layers"]["trace"]["decks"]] == ["measured", "modelled"]
    assert race["layers"]["trace"]["n"] == len(run.spans) // 3 + len(model.spans)
    with pytest.raises(ValueError, match="two traces or more, not 1"):
        race_payload({"alone": model})


def test_the_picture_of_a_race_has_one_scale_and_both_badges() -> None:
    """Without scripts too: each run under its name, the result on top."""
    runs = {name: made(name)[1] for name in ("1f1b", "zb-h1")}
    picture = show_race(runs, **ON_PAPER).picture
    words = " ".join(ET.fromstring(picture).itertext())
    for word in ("1f1b: 33 beats", "zb-h1: 27 beats", "zb-h1 ends its step 6 beats before 1f1b"):
        assert word in words
    # one scale: beat 30 stands under both, though one of them ends at 27
    assert words.count("30 beats") >= 2


# ---- a real browser


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Any:
    """Open a page's text in a fresh context; every console error fails the test."""
    contexts, errors = [], []

    def open_(text: str, **options: Any) -> Any:
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


def state(page: Any) -> dict[str, Any]:
    return page.evaluate("__shardlab_player.state()")


def point(page: Any, share: float, y: float) -> None:
    """The pointer at a share of the time axis, y pixels below the top of the canvas."""
    box = page.locator("canvas").bounding_box()
    page.mouse.move(box["x"] + 84 + share * (box["width"] - 100), box["y"] + y)


@pytest.mark.browser
def test_hovering_counts_microbatches_and_finds_messages(opened: Any) -> None:
    """The strip says what is in flight and the cap; a port says from whom to whom."""
    _, trace, figures = made("1f1b", tcomm=0.5)
    page = opened(html(trace, cap=3, bubbles=figures, **ON_PAPER), viewport=WIDE)
    page.get_by_text("bubble 41.5 %, internal 31.4 %").wait_for()
    row = state(page)["rows"][0]
    point(page, 6 / 41, row["memoryY"] + 4)
    page.get_by_text("4 microbatches in flight at 6 beats").wait_for()
    page.get_by_text("the cap is 3 microbatches").wait_for()
    point(page, 12.75 / 41, row["lanes"][1] + 3)
    page.get_by_text("recv stage1 mb0 on rank 0").wait_for()
    page.get_by_text("rank 1 to rank 0").wait_for()
    page.mouse.down()
    page.mouse.up()
    assert state(page)["pick"] >= 0  # its arrow stays when the pointer leaves
    page.keyboard.press("Escape")
    assert state(page)["pick"] == -1


@pytest.mark.browser
def test_a_race_has_one_cursor_and_the_players_keys(opened: Any) -> None:
    """Both runs are told of at the cursor; p, c and l switch both at once."""
    runs = {"1F1B": made("1f1b")[1], "ZB-H1": made("zb-h1")[1]}
    page = opened(race_html(runs, **ON_PAPER), viewport=WIDE)
    page.locator(".sl").focus()
    page.get_by_text("ZB-H1 ends its step 6 beats before 1F1B").first.wait_for()
    assert page.locator(".badge").count() == 2
    assert state(page)["end"] == 33 * BEAT
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert state(page)["x"] == BEAT
    said = page.locator(".say")
    said.get_by_text("1F1B rank 0 F stage0 mb1").wait_for()
    said.get_by_text("ZB-H1 rank 1 F stage1 mb0").wait_for()
    for key, name, value in [
        ("p", "colours", "paper"),
        ("c", "path", True),
        ("l", "axis", "steps"),
    ]:
        page.keyboard.press(key)
        assert state(page)[name] == value


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_race_fits_a_phone_and_breaks_no_accessibility_rule(opened: Any, scheme: str) -> None:
    """390 pixels wide, nothing sticks out; axe finds nothing, help opened too."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="shardlab[test]")
    runs = {"1F1B": made("1f1b")[1], "DualPipe": made("dualpipe")[1]}
    page = opened(
        race_html(runs, **ON_PAPER), viewport={"width": 390, "height": 844}, color_scheme=scheme
    )
    page.get_by_text("In words and as a table").click()
    page.get_by_role("button", name="help and export").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []


@pytest.mark.browser
def test_a_long_pipeline_scrubs_in_a_frame(opened: Any) -> None:
    """16 ranks, 1,000 microbatches: 90,000 spans on merged lanes, well under 16 ms a frame."""
    page = opened(html(made("1f1b", p=16, m=1000)[1], **ON_PAPER), viewport=WIDE)
    measured = page.evaluate("__shardlab_player.bench(60)")
    assert measured["spans"] > 85_000
    assert measured["draw_ms"]["p50"] < 16
