"""Claims about jobs that a page follows: queued, cancelled, failed, and those of another page."""

from __future__ import annotations

from types import SimpleNamespace

import pages
import pytest
from pages import open_page, words
from screens import live

from parallel_core.collectives.request import CollectiveRequest
from parallel_core.jobs import JobState, Status
from parallel_core.loom.request import LoomRequest
from parallel_core.museum.request import Visit

no_run_is_left = pages.no_run_is_left
NAME = "abc-j1"
PAGES = {
    "studio": (CollectiveRequest(), {}),
    "tensor_loom": (LoomRequest(), {}),
    "museum": (Visit(), {"bug": Visit().bug}),
}
"""What each page asks, and what else must stand in its URL."""
STATE = {"studio": "studio", "tensor_loom": "loom", "museum": "museum"}
"""The first word of a page's state and buttons."""

every_page = pytest.mark.parametrize("page", PAGES)


class Desk:
    """A desk at which one thing was asked, that stands as `state` says; notes who left."""

    def __init__(self, request, **state):
        self.asked = live.Asked(NAME, "j1", request)
        self.jobs = SimpleNamespace(state=lambda job, offset: JobState(id=job, **state))
        self.left = []

    def find(self, name):
        return self.asked if name == NAME else None

    def watch(self, asked, session):
        assert asked is self.asked

    def leave(self, asked, session):
        self.left.append(asked)


def opened(page, desk, monkeypatch):
    """The page on that job, at that desk."""
    monkeypatch.setattr(live, "desk", lambda: desk)
    return open_page(page, run=NAME, **PAGES[page][1])


def told(at):
    """Every paragraph of the page, and what stands over its bars."""
    return " ".join([words(at), *(bar.proto.text for bar in at.get("progress"))])


@every_page
def test_a_job_in_the_queue_says_its_place_and_can_be_cancelled(page, monkeypatch):
    """Cancel leaves the job to whoever else looks, and the page follows nothing any more."""
    desk = Desk(PAGES[page][0], status=Status.QUEUED, place=3)
    at = opened(page, desk, monkeypatch)
    assert "Waiting in the queue, place 3" in told(at)
    at.button(key=f"{STATE[page]}.cancel").click().run()
    assert not at.exception and desk.left == [desk.asked]
    assert "run" not in at.query_params and "place 3" not in told(at)


@every_page
def test_a_failed_job_is_told_and_kept_nowhere(page, monkeypatch):
    """One sentence, in the words of the rank; a second look at the page says it again."""
    desk = Desk(PAGES[page][0], status=Status.FAILED, error="rank 1 ran out of luck")
    at = opened(page, desk, monkeypatch)
    for _ in range(2):
        assert [found.value for found in at.error] == ["Rank 1 ran out of luck."]
        kept = f"{STATE[page]}.kept"
        assert kept not in at.session_state or at.session_state[kept] == []
        at.run()


@every_page
def test_a_job_of_another_page_is_not_followed(page, monkeypatch):
    """A name that belongs to another kind of request is as good as unknown."""
    other = next(request for name, (request, _) in PAGES.items() if name != page)
    at = opened(page, Desk(other, status=Status.RUNNING), monkeypatch)
    assert "not known any more" in at.info[0].value and "run" not in at.query_params
