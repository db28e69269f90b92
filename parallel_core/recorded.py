"""Make a recorded trace to ship: a real run of this machine, marked RECORDED, with its versions.

python -m parallel_core.recorded assets/recorded_dp4.json --dp 4 --microbatches 2 --steps 6
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from parallel_core.cli.plan_options import given, plan_options
from parallel_core.cli.run_command import follow
from parallel_core.request import Request
from parallel_core.trace import Kind, Trace


def recorded(trace: Trace) -> Trace:
    """The same trace as a recording: who plays it later did not measure it."""
    versions = ", ".join(f"{name} {text}" for name, text in trace.provenance.versions.items())
    notes = (*trace.provenance.notes, versions)
    return replace(trace, provenance=replace(trace.provenance, kind=Kind.RECORDED, notes=notes))


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@plan_options
@click.option("--steps", default="6", metavar="INT")
def main(file: Path, **options: Any) -> None:
    """Run, and write the trace to FILE."""
    view, _ = follow(Request.of(**given(options), parity=False).checked())
    file.write_text(recorded(view.trace).to_json() + "\n")


if __name__ == "__main__":
    main()
