"""What the doctor finds: cores that are ours, links by name, a layout that is legal and fits."""

from __future__ import annotations

import math
import re

import pytest

from parallel_core import machine
from parallel_core.cli import doctor_command
from parallel_core.cli.doctor_links import link_words, links, usable_cores
from parallel_core.fields import PlanError
from parallel_core.plan import Plan


@pytest.mark.parametrize("most", [1, 2, 3, 4, 8, 16])
def test_the_pleasant_layout_is_the_largest_that_fits(most, monkeypatch):
    """It is a plan that this machine bears, and no plan with more ranks, up to the limit, is."""
    monkeypatch.setattr(machine, "most_ranks", lambda: 64)
    found = doctor_command.pleasant_layout(most)
    ranks = math.prod(found.values())
    assert ranks <= most and all(degree > 1 for degree in found.values())
    machine.check_bears(Plan.of(**found))
    for more in range(ranks + 1, most + 1):
        with pytest.raises(PlanError):
            machine.check_bears(Plan.of(dp=more))


def test_a_machine_that_bears_less_gets_a_smaller_layout(monkeypatch):
    """Where only two ranks fit, two are named, whatever the cores would allow."""

    def bears(plan: Plan) -> None:
        if plan.world_size > 2:
            raise PlanError("dp", plan.dp, "is more than fits", 2)

    monkeypatch.setattr(machine, "check_bears", bears)
    assert math.prod(doctor_command.pleasant_layout(8).values()) == 2


@pytest.mark.parametrize(("text", "most"), [("150000 100000\n", 1.5), ("max 100000\n", 1e9)])
def test_a_containers_share_counts(text, most, tmp_path):
    """A quota below the affinity is what is ours; none, or no file, leaves the affinity."""
    (tmp_path / "cpu.max").write_text(text)
    free = usable_cores(tmp_path / "nothing")
    assert free >= 1
    assert usable_cores(tmp_path / "cpu.max") == min(free, most)


def test_links_are_named(tmp_path):
    """The loopback is among them; devices and pairs of GPUs are counted where there are any."""
    (tmp_path / "mlx5_0").mkdir()
    found = links(4, [[0, 1], [2, 3]], tmp_path)
    assert any(one["loopback"] for one in found["network"])
    words = link_words(found)
    assert "(loopback)" in words and "mlx5_0" in words
    assert "2 of 6 pairs of GPUs" in words
    assert "GPUs" not in link_words(links(0, [], tmp_path / "none"))
    assert link_words({"network": [], "infiniband": [], "gpu_pairs": 0}) == "none is up"


def test_what_it_prints_names_a_run_that_exists(capsys):
    """The last line is a command of a legal layout; GPUs are shown with their memory."""
    found = doctor_command.examine()
    found |= {"gpus": ["H100"], "gpu_bytes": [80 * 2**30], "missing": []}
    doctor_command._print(found)
    out = capsys.readouterr().out
    assert "H100 (80 GiB)" in out or "H100 (80.0 GiB)" in out
    line = re.search(r"try: shardlab run(.*) --steps 20", out)[1].split()
    split = {flag[2:]: int(n) for flag, n in zip(line[::2], line[1::2], strict=True)}
    assert split == found["largest_layout"]["pleasant"]
    assert Plan.of(**split).world_size >= 1
