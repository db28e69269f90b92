"""Frame time of the player in a real, headless Chromium, on a made-up trace of many spans."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallel_core.bench import Say
from parallel_core.bench.measurement import Measurement, Report
from parallel_core.fields import validate, whole
from parallel_core.views.player import frame_bench_html

CANDIDATES = ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome", "chrome")
ARGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
WINDOW = {"width": 1280, "height": 800}
SMOOTH_MS = 1000 / 60

ROWS = {
    "open": ("open_ms", None, "ms"),
    "a frame's drawing, median": ("draw_ms", "p50", "ms"),
    "a frame's drawing, slowest 5 %": ("draw_ms", "p95", "ms"),
    "frame to frame, median": ("frame_ms", "p50", "ms"),
    "frame to frame, slowest 5 %": ("frame_ms", "p95", "ms"),
    "repaint of every span": ("repaint_ms", None, "ms"),
}
"""Row -> where the player's own `bench()` says it, and its unit."""


@dataclass(frozen=True, kw_only=True)
class Scrubs:
    """How long the player is scrubbed."""

    repeats: int = whole(7, 1, 1000, "scrubs through the trace, each on a page opened anew")
    frames: int = whole(120, 2, 100_000, "frames a scrub")

    def __post_init__(self) -> None:
        validate(self)


def measure(chosen: Scrubs, say: Say, sizes: Iterable[int] = (10_000, 100_000)) -> Report:
    """Frame times at each number of spans; a skipped report where there is no browser."""
    missing = why_not()
    if missing:
        return Report("player", "frame time of the player", {}, skipped=missing)
    rows: dict[str, Measurement] = {}
    with _browser() as browser:
        for spans in sizes:
            scrubs = list(_scrubs(browser, spans, chosen, say))
            for row, (key, part, unit) in ROWS.items():
                samples = [scrub[key][part] if part else scrub[key] for scrub in scrubs]
                rows[f"{row}, {scrubs[0]['spans']:,} spans"] = Measurement.of(samples, unit)
        settings = {
            "repeats": chosen.repeats,
            "frames": chosen.frames,
            "chromium": browser.version,
            "window": WINDOW,
        }
    notes = (f"60 frames a second are {SMOOTH_MS:.1f} ms from frame to frame",)
    return Report("player", "frame time of the player", rows, settings, notes)


def why_not() -> str:
    """Why this bench cannot run here, as a sentence; empty if it can."""
    try:
        import playwright.sync_api  # noqa: F401  (asked for, not used yet)
    except ImportError:
        return "the player was not measured: playwright is missing (pip install shardlab[test])"
    if chromium() is None:
        return "the player was not measured: no Chromium found (apt-get install chromium)"
    return ""


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, CANDIDATES)), None)


@contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGS))
        yield browser
        browser.close()


def _scrubs(browser: Any, spans: int, chosen: Scrubs, say: Say) -> Iterator[dict[str, Any]]:
    """What the player's `bench()` returned, a page at a time."""
    with tempfile.TemporaryDirectory(prefix="shardlab-bench-") as folder:
        say(f"{spans:,} spans: making the page")
        file = Path(folder) / "player.html"
        file.write_text(frame_bench_html(spans), encoding="utf-8")
        for i in range(chosen.repeats):
            say(f"{spans:,} spans: scrub {i + 1} of {chosen.repeats}")
            page = browser.new_page(viewport=WINDOW)
            page.goto(file.as_uri())
            page.wait_for_function("() => globalThis.__shardlab_player")
            yield page.evaluate("(n) => globalThis.__shardlab_player.bench(n)", chosen.frames)
            page.close()
