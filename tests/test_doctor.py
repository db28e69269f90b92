"""What the doctor finds: cores that are ours, links by name, a layout that is legal and fits."""

from __future__ import annotations

import json
import math
import os
import re

import pytest
from click.testing import CliRunner

from parallel_core import machine
from parallel_core.cli import doctor_command
from parallel_core.cli.doctor_links import link_words, links
from parallel_core.fields import PlanError
from parallel_core.hardware.cores import usable_cores
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


@pytest.mark.parametrize(
    ("quota", "period", "most"), [("50000", "100000", 0.5), ("max", "100000", 1e9)]
)
def test_a_containers_share_counts(quota, period, most, tmp_path):
    """A quota below the affinity is what is ours, by either version of cgroups; none leaves it."""
    free = usable_cores(tmp_path / "nothing")
    assert free == len(os.sched_getaffinity(0))
    old, new = tmp_path / "1", tmp_path / "2"
    (old / "cpu").mkdir(parents=True)
    new.mkdir()
    (new / "cpu.max").write_text(f"{quota} {period}\n")
    (old / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota.replace('max', '-1')}\n")
    (old / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert usable_cores(new) == usable_cores(old) == min(free, most)


@pytest.mark.parametrize(
    ("cores", "easy", "most"),
    [(0.5, 1, 8), (1.0, 2, 8), (1.5, 3, 12), (2.0, 4, 16), (64.0, 128, 512)],
)
def test_ranks_are_counted_on_the_cores_that_are_ours(cores, easy, most, monkeypatch):
    """Of 64 cores a container may have half a one: what a run bears and what the doctor names."""
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert (machine.pleasant_ranks(), machine.most_ranks()) == (easy, most)
    with pytest.raises(PlanError, match=rf"more than this machine bears live \({most}\)"):
        machine.check_bears(Plan.of(dp=most + 1, global_batch=most + 1))


def test_the_doctor_tells_those_cores_and_a_layout_for_them(monkeypatch):
    """On half a core a single rank, and no layout of more is named."""
    for module in (machine, doctor_command):
        monkeypatch.setattr(module, "usable_cores", lambda: 0.5)
    found = doctor_command.examine()
    assert found["usable_cores"] == 0.5
    assert found["largest_layout"] == {"pleasant_ranks": 1, "ranks": 8, "pleasant": {}}


@pytest.mark.parametrize("gone", ["torch", "gloo", None])
def test_what_every_run_needs_is_missed_aloud(gone, monkeypatch):
    """A torch that does not load, or knows no gloo: named, and exit code 1."""
    answer = {"gpus": [], "gpu_bytes": [], "gpu_peers": [], "gloo": gone is None, "nccl": False}
    if gone == "torch":
        answer["why"] = "torch does not load (on purpose)"
    monkeypatch.setattr(doctor_command, "_ask_torch", lambda: answer)
    done = CliRunner().invoke(doctor_command.command, ["--json"], standalone_mode=False)
    found = json.loads(done.output)
    assert found["backends"] == ([] if gone else ["gloo"])
    assert done.return_value == (1 if gone else 0)
    assert all(gone in words for words in found["missing"]) and len(found["missing"]) == bool(gone)


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
