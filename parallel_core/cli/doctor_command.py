"""`shardlab doctor`: what this machine can run, and what is missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from parallel_core import __version__, machine, places
from parallel_core.cli.doctor_links import link_words, links
from parallel_core.fields import PlanError
from parallel_core.hardware.cores import usable_cores
from parallel_core.plan import Plan
from parallel_core.quantities import bytes_text

PACKAGES = ("torch", "numpy", "streamlit", "plotly", "jupyterlab", "transformers", "playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

ASK_TORCH = """
import json, torch, torch.distributed as dist
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
reach = torch.cuda.can_device_access_peer
pairs = [(a, b) for a in range(gpus) for b in range(a + 1, gpus)]
print(json.dumps({
    "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
    "gpu_bytes": [torch.cuda.get_device_properties(i).total_memory for i in range(gpus)],
    "gpu_peers": [pair for pair in pairs if reach(*pair) and reach(*pair[::-1])],
    "gloo": dist.is_available() and dist.is_gloo_available(),
    "nccl": dist.is_available() and dist.is_nccl_available(),
}))
"""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def command(as_json: bool) -> int:
    """Say what this machine can run: processors, memory, GPUs, links, backends, versions; and the
    largest live layout that answers while you watch.

    Exit code 1 if something that every run needs is missing.

    \b
    Examples:
      shardlab doctor
      shardlab doctor --json | jq .largest_layout
    """
    found = examine()
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)
    return 1 if found["missing"] else 0


def examine() -> dict[str, Any]:
    """Every finding by name; `missing` lists what a run needs and does not have."""
    memory = psutil.virtual_memory()
    torch = _ask_torch()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    easy = machine.pleasant_ranks()
    found: dict[str, Any] = {
        "shardlab": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "memory_bytes": {"total": memory.total, "available": memory.available},
        "run_files": "/dev/shm" if os.access("/dev/shm", os.W_OK) else "temporary files on disk",
        "gpus": torch["gpus"],
        "gpu_bytes": torch["gpu_bytes"],
        "links": links(len(torch["gpus"]), torch["gpu_peers"]),
        "backends": [name for name in ("gloo", "nccl") if torch[name]],
        "chromium": browser,
        "versions": {name: _version(name) for name in PACKAGES},
        "largest_layout": {"pleasant_ranks": _largest(easy)},
        "missing": [],
    }
    found["largest_layout"]["ranks"] = _largest(machine.most_ranks())
    found["largest_layout"]["pleasant"] = pleasant_layout(easy)
    found["missing"] = _missing(found, torch.get("why", ""))
    return found


def _ask_torch() -> dict[str, Any]:
    """What torch says of this machine; asked in a process of its own, so that none is loaded here.

    Some 2 s. `why` tells why it could not be asked.
    """
    unknown: dict[str, Any] = {"gpus": [], "gpu_bytes": [], "gpu_peers": []}
    unknown |= {"gloo": False, "nccl": False}
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK_TORCH], capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return unknown | {"why": f"torch did not answer: {error}"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return unknown | {"why": f"torch does not load ({last})"}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def pleasant_layout(most: int) -> dict[str, int]:
    """The largest layout of the default plan, up to `most` ranks, that is legal and fits here.

    Of those with as many ranks, the one that splits along the most axes: there is most to see.
    Degrees by axis, those of 1 left out.
    """
    for ranks in range(most, 0, -1):
        splits = [
            {"dp": ranks // (tp * pp), "tp": tp, "pp": pp}
            for tp in range(1, ranks + 1)
            for pp in range(1, ranks // tp + 1)
            if ranks % (tp * pp) == 0
        ]
        for split in sorted(splits, key=lambda s: -sum(degree > 1 for degree in s.values())):
            if _bears(split):
                return {axis: degree for axis, degree in split.items() if degree > 1}
    return {}


def _bears(split: dict[str, int]) -> bool:
    try:
        machine.check_bears(Plan.of(**split))
    except PlanError:
        return False
    return True


def _largest(most: int) -> int:
    """The largest data-parallel degree, up to `most`, of the default model that fits here now."""
    for dp in range(most, 0, -1):
        try:
            machine.check_bears(Plan.of(dp=dp, global_batch=dp))
        except PlanError:
            continue
        return dp
    return 0


def _missing(found: dict[str, Any], why: str) -> list[str]:
    gaps = [why] if why else []
    if not why and "gloo" not in found["backends"]:
        gaps.append("this torch has no gloo: no run with more than one rank on CPUs")
    for folder in ("app", "assets", "lessons"):
        try:
            getattr(places, folder)()
        except FileNotFoundError as error:
            gaps.append(str(error))
    return gaps


def _print(found: dict[str, Any]) -> None:
    memory, layout, out = found["memory_bytes"], found["largest_layout"], Console()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    browser = found["chromium"] or "none: browser tests will be skipped (apt-get install chromium)"
    lines = {
        "ShardLab": f"{found['shardlab']}, Python {found['python']}, {_support()}",
        "cores": _cores(found),
        "memory": f"{bytes_text(memory['available'])} free of {bytes_text(memory['total'])}",
        "GPUs": _gpus(found) or "none: ranks run on the CPU",
        "links": f"{link_words(found['links'])}; shardlab link measures one",
        "backends": ", ".join(found["backends"]) or "none",
        "run files": found["run_files"],
        "Chromium": browser,
        "ranks": f"{layout['pleasant_ranks']} at ease, {layout['ranks']} at most (default model)",
        "pleasant": f"{_layout_words(layout['pleasant'])} answers while you watch",
        **{name: version or "not installed" for name, version in found["versions"].items()},
    }
    for name, value in lines.items():
        table.add_row(name, value)
    out.print(table)
    for gap in found["missing"]:
        out.print(f"missing: {gap}", style="bold")
    if not found["missing"]:
        flags = "".join(f" --{axis} {n}" for axis, n in layout["pleasant"].items())
        out.print(f"try: shardlab run{flags} --steps 20")


def _cores(found: dict[str, Any]) -> str:
    usable = found["usable_cores"]
    few = usable < found["cores"]
    return f"{found['cores']}, of which {usable:g} are ours" if few else str(found["cores"])


def _gpus(found: dict[str, Any]) -> str:
    named = zip(found["gpus"], found["gpu_bytes"], strict=True)
    return ", ".join(f"{name} ({bytes_text(size)})" for name, size in named)


def _layout_words(layout: dict[str, int]) -> str:
    return " ".join(f"{axis}={degree}" for axis, degree in layout.items()) or "one process"


def _support() -> str:
    """How well the system is supported: Linux first."""
    name = platform.system()
    if name != "Linux":
        return f"{name} (best effort: Linux is what is tested)"
    wsl = Path("/proc/version").read_text().lower() if Path("/proc/version").exists() else ""
    return "Linux under WSL (best effort)" if "microsoft" in wsl else "Linux"
