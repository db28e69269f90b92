"""The app's pages as tests drive them: alone, without a browser, and in a real one.

Importing this file puts the app's folder on the path, so that `from screens import ...` works
below it. A test file that runs anything makes `no_run_is_left` its own.
"""

from __future__ import annotations

import json
import sys
import time

import pytest
from streamlit.testing.v1 import AppTest

from parallel_core import places

APP = places.app()
sys.path.insert(0, str(APP))

from screens import live  # noqa: E402  (the app's folder must be on the path)

STREAMLITS_OWN = {"list", "listitem"}  # the grouped navigation in its sidebar
WIDER = """() => [...document.querySelectorAll('html, [data-testid=stMain]')]
    .map(e => e.scrollWidth - e.clientWidth)"""


@pytest.fixture(scope="module", autouse=True)
def no_run_is_left():
    """The runs that pages start belong to this process; they end with the file's tests."""
    yield
    live.close_jobs()


# -- without a browser -----------------------------------------------------------------------------


def script(screen, call):
    """A script of its own that imports `screen` and does `call`: what AppTest runs."""
    path = f"import sys; sys.path.insert(0, {str(APP)!r})\n"
    return AppTest.from_string(f"{path}from screens import {screen}\n{call}", default_timeout=60)


def open_page(screen, **query):
    """The page of that module of `screens`, with these words in its URL."""
    at = script(screen, f"{screen}.page()")
    for name, value in query.items():
        at.query_params[name] = str(value)
    return calm(at.run())


def calm(at):
    """The page, if no exception is on it."""
    assert not at.exception, at.exception[0].message
    return at


def button(at, label):
    """The button that reads `label`."""
    return next(found for found in at.button if found.label == label)


def skipped(screen, **query):
    """The page of that module of `screens` after its one guess was skipped."""
    return calm(button(open_page(screen, **query), "Skip").click().run())


def skip(at):
    """Past both guesses of a page that asks two."""
    button(at, "Skip this").click().run()
    return button(at, "Skip").click().run()


def words(at):
    """Every paragraph of the page."""
    return " ".join(found.value for found in at.markdown)


def fragments(at):
    """Every HTML fragment of the page, joined."""
    return " ".join(found.proto.body for found in at.get("html"))


def headings(at):
    """The page's second-level headings."""
    return [found.value for found in at.header]


def table(at, column):
    """The first table with that column."""
    every = [found.value for found in (*at.table, *at.dataframe)]
    return next(found for found in every if column in found.columns)


def payloads(at):
    """What each component of ours on the page was given."""
    return [json.loads(found.proto.bytes) for found in at.get("bidi_component")]


def layers(at):
    """The layers of the one player on the page, by name."""
    (payload,) = payloads(at)
    return payload["layers"]


def charts(at):
    """The Plotly figures of the page, as their JSON."""
    return [json.loads(found.proto.spec) for found in at.get("plotly_chart")]


def until(at, done, seconds=90.0):
    """Rerun the page, as its fragment does, until `done(at)`."""
    end = time.monotonic() + seconds
    while not done(at):
        assert time.monotonic() < end, words(at)
        time.sleep(0.2)
        at = calm(at.run())
    return at


# -- in a browser ----------------------------------------------------------------------------------


def in_looks(*looks):
    """Runs a browser test once a look: width, height in pixels, and light or dark.

    Make the window as high as the page: axe judges no contrast outside of it. A look is slow if
    others have its width and its scheme: wide and light, beside wide and dark, narrow and light.
    """
    named, rest = [], list(looks)
    for look in looks:
        width, _, scheme = look
        others = [each for each in rest if each is not look]
        seen = width in {w for w, _, _ in others} and scheme in {s for _, _, s in others}
        if seen:
            rest = others
        wish = dict(zip(("width", "height", "scheme"), look, strict=True))
        marks = [pytest.mark.slow] if seen else []
        named.append(pytest.param(wish, id=f"{scheme}-{width}", marks=marks))
    return pytest.mark.parametrize("tab", named, indirect=True)


def complaints(tab, known=frozenset(STREAMLITS_OWN)):
    """What is wrong with the page as it stands: axe's findings but the known, a sideways scroll,
    console errors, strangers asked. Empty where all is well."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(tab.page).response["violations"]
    nodes = {v["id"]: [n["html"][:160] for n in v["nodes"]] for v in found if v["id"] not in known}
    wide = max(tab.page.evaluate(WIDER))
    others = {
        "wider than the window by": max(0, wide),
        "console": tab.errors,
        "strangers": tab.strangers(),
    }
    return nodes | {name: what for name, what in others.items() if what}
