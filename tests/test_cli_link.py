"""`shardlab link`, and sizes as people type them."""

from __future__ import annotations

import contextlib
import io
from unittest import mock

import pytest
from test_cli_collectives import report_of, typed

from parallel_core.cli import link_command
from parallel_core.cli.sizes_option import bytes_of
from parallel_core.collectives.ramp import RampLink
from parallel_core.cost import Link
from parallel_core.fields import PlanError
from parallel_core.program import Op


@pytest.fixture
def live(pool):
    """`live(...)`: as from a terminal, on the warm pool that all tests share."""
    warm = mock.Mock(side_effect=lambda **_: contextlib.nullcontext(pool))
    with mock.patch.object(link_command, "Pool", warm):
        yield typed


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096), ("64MiB", 64 << 20), ("1kB", 1000), ("1KB", 1000), ("1.5 kib", 1536),
        ("0", 0), ("1_000", 1000), ("2,048 B", 2048), ("1gib", 1 << 30), ("0.25MB", 250_000),
    ],
)  # fmt: skip
def test_sizes_as_people_type_them(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1.5", "1e6", "64 Mi B", "9" * 50, "١", "0.3KiB"])
def test_what_is_no_size(text):
    with pytest.raises(PlanError, match="the nearest value that works is"):
        bytes_of(text)


# ---------------------------------------------------------------------------- the link


def test_a_fit_of_exact_points_names_the_link_that_made_them():
    """Both models come with their numbers, what they predict and how far off they are."""
    for link in (Link(2e-5, 3e9), RampLink(2e-5, 3e9, 5e4)):
        sizes = [1 << power for power in range(3, 25, 3)]
        points = [{"bytes": m, "low": link.seconds(Op.SEND, m, 2)} for m in sizes]
        found = link_command.fits(points)
        exact = found["ramp" if isinstance(link, RampLink) else "alpha_beta"]
        assert exact["alpha_s"] == pytest.approx(2e-5) and exact["largest_error"] < 1e-6
        assert exact["beta_bytes_s"] == pytest.approx(3e9)
        assert exact["alpha_beta_bytes"] == pytest.approx(6e4)
        assert exact["seconds"] == pytest.approx([point["low"] for point in points])
    assert found["alpha_beta"]["largest_error"] > 0.1 > found["ramp"]["largest_error"]


@pytest.mark.live
def test_two_processes_measure_the_link_between_them(live):
    """Points come as they are measured; then both fits, their errors and what they mean."""
    code, out, err = live("link", "--json")
    found = report_of((code, out, err))
    assert len(found["points"]) >= 6 and all(p["seconds"] > 0 for p in found["points"])
    assert [point["bytes"] for point in found["points"]] == sorted(
        {point["bytes"] for point in found["points"]}
    )
    assert err.count("round trips") == len(found["points"])
    for model in found["models"].values():
        assert model["beta_bytes_s"] > 0 and len(model["relative_errors"]) == len(found["points"])
    assert found["load_average"] and found["machine"]["cores"]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()):
        link_command._show(found)
    for words in ("alpha-beta: alpha", "ramp: alpha", "latency and bandwidth cost", "16 MiB"):
        assert words in shown.getvalue()


def test_unsteady_points_are_doubted():
    steady = {"bytes": 8, "low": 1e-6, "high": 2e-6}
    shaky = {"bytes": 1024, "low": 1e-6, "high": 9e-6}
    assert link_command.doubts([steady]) == []
    (doubt,) = link_command.doubts([steady, shaky])
    assert "1 KiB" in doubt and "busy" in doubt
