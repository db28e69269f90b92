"""`shardlab run`: train for real, and lay what was measured beside what was predicted."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import click

from parallel_core import own_block
from parallel_core.cli.plan_options import given, plan_options
from parallel_core.cli.plan_sections import Sectioned
from parallel_core.cli.strict_json import strict_json
from parallel_core.cli.summary import print_summary, progress_bar
from parallel_core.program import Program
from parallel_core.report import RunView
from parallel_core.request import Request
from parallel_core.views.equality import verdict

FILE = click.Path(dir_okay=False)
FOLDER = click.Path(file_okay=False)
PROVED = 5_000
"""Instructions up to which a program is proved before it runs, in about a second."""

SAVES = ("save_weights", "save_grads", "save_batch")


@click.command("run", cls=Sectioned, rest="Output")
@plan_options
@click.option("--steps", default="20", metavar="INT", help="training steps  [default: 20]")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
@click.option("--no-parity", is_flag=True, help="do not compare with one process")
@click.option("--trace", type=FILE, help="write the trace (opens in Perfetto and in trace pages)")
@click.option("--html", type=FILE, help="write the player, one self-contained HTML file")
@click.option("--save-weights", type=FOLDER, help="write the weights, as a Hugging Face model")
@click.option("--save-grads", type=FILE, help="write the first step's gradients, safetensors")
@click.option(
    "--save-batch", type=FILE, help="write the first global batch, labels shifted already"
)
def command(**options: Any) -> None:
    """Train a transformer on real text, split as you say, on real processes.

    Then: losses, bytes on the wire and in memory (predicted beside measured), and the largest
    difference from one process that trained the same; is it more than rounding explains, it says
    so, and in float64 the exit code is 1.

    \b
    Examples:
      shardlab run                                    one process
      shardlab run --dp 4 --steps 20                  four ranks
      shardlab run --dp 2 --microbatches 4 --dialect gpt --dtype float64
      shardlab run --dp 4 --trace out.json --html out.html
      shardlab run --dp 4 --json | jq .ledger.wire
      shardlab run --dp 2 --zero 3 --block my_block.py:Block
      torchrun --nproc-per-node 4 -m parallel_core.cli run --dp 4
    """
    as_json, trace, html = (options.pop(key) for key in ("as_json", "trace", "html"))
    parity = not options.pop("no_parity")
    for key in SAVES:
        options[key] = os.path.abspath(options[key]) if options[key] else None
    own_block.admit(options)
    request = Request.of(**given(options), parity=parity)
    for file in filter(None, (trace, html, *(options[k] for k in SAVES))):
        _open_folder(Path(file))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from parallel_core.elastic import run_under_torchrun

        finished = run_under_torchrun(request)
        if finished is None:
            return  # another rank speaks for the run
        view, report = finished
    else:
        view, report = follow(request.checked())
    if trace:
        _write_trace(view, Path(trace))
        report["trace"]["file"] = trace
    if html:
        from parallel_core.views.player import html as player_html

        page = player_html(view.trace, own=view.own_device(), title=view.plan.layout)
        Path(html).write_text(page, encoding="utf-8")
    said = verdict(report["parity"], view.plan.dtype) if report["parity"] else None
    if as_json:
        if said:
            report["parity"]["verdict"] = said.as_json()
        click.echo(strict_json(report))
    else:
        print_summary(view, report)
    if said and said.never:
        click.get_current_context().exit(1)


def _open_folder(file: Path) -> None:
    """Find out before the run, not after it, whether `file` can be written there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write", str(file))


def _write_trace(view: RunView, file: Path) -> None:
    """One file for both readers: Perfetto takes traceEvents, our own pages the columns."""
    from parallel_core.exports import chrome_trace

    both = {**json.loads(view.trace.to_json()), **chrome_trace(view.trace)}
    file.write_text(strict_json(both), encoding="utf-8")


def follow(request: Request) -> tuple[RunView, dict[str, Any]]:
    """Run on a pool of this command's own, with a progress bar on stderr; Ctrl-C ends it.

    Raises ProgramError, before any rank starts, if the program would hang or sum a term wrongly:
    a method that somebody has just written.
    """
    from parallel_core.cases import PRELOAD
    from parallel_core.launch import Pool
    from parallel_core.parameter_server_report import view_of

    view = view_of(request.plan)
    examine(view.program)
    bar = progress_bar(request.steps, request.plan.layout)
    with Pool(preload=PRELOAD) as pool, bar as advance, pool.start(*request.order) as run:
        for event in run.events():
            view.feed(event)
            advance(view)
        report = view.finish(run.wait())
    return view, report


def examine(program: Program) -> None:
    """A program's proof, unless it is so long that the reader would wait for it."""
    from parallel_core.check import check
    from parallel_core.prove import prove

    if sum(map(len, program.ranks)) <= PROVED:
        check(program)
        prove(program)
