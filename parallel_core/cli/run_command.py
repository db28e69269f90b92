"""`shardlab run`: train for real, and lay what was measured beside what was predicted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from parallel_core.cli.plan_options import given, plan_options
from parallel_core.cli.summary import print_summary, progress_bar
from parallel_core.report import RunView
from parallel_core.request import Request

FILE = click.Path(dir_okay=False)
FOLDER = click.Path(file_okay=False)


@click.command("run")
@plan_options
@click.option("--steps", default="20", metavar="INT", help="training steps  [default: 20]")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout, nothing else")
@click.option("--no-parity", is_flag=True, help="do not compare with one process")
@click.option("--trace", type=FILE, help="write the trace (opens in Perfetto and in trace pages)")
@click.option("--html", type=FILE, help="write the player, one self-contained HTML file")
@click.option("--save-weights", type=FOLDER, help="write the weights, as a Hugging Face model")
@click.option("--save-grads", type=FILE, help="write the first step's gradients, safetensors")
@click.option("--save-batch", type=FILE, help="write the first global batch, safetensors")
def command(**options: Any) -> None:
    """Train a transformer on real text, split as you say, on real processes.

    Then: losses, bytes on the wire and in memory (predicted beside measured), and the largest
    difference from one process that trained the same.

    \b
    Examples:
      shardlab run                                    one process
      shardlab run --dp 4 --steps 20                  four ranks
      shardlab run --dp 2 --microbatches 4 --dialect gpt --dtype float64
      shardlab run --dp 4 --trace out.json --html out.html
      shardlab run --dp 4 --json | jq .ledger.wire
      torchrun --nproc-per-node 4 -m parallel_core.cli run --dp 4
    """
    as_json, trace, html = (options.pop(key) for key in ("as_json", "trace", "html"))
    parity = not options.pop("no_parity")
    for key in ("save_weights", "save_grads", "save_batch"):
        options[key] = os.path.abspath(options[key]) if options[key] else None
    request = Request.of(**given(options), parity=parity)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from parallel_core.elastic import run_under_torchrun

        finished = run_under_torchrun(request)
        if finished is None:
            return  # another rank speaks for the run
        view, report = finished
    else:
        view, report = follow(request.checked())
    if trace:
        from parallel_core.exports import chrome_trace

        # one file for both readers: Perfetto takes traceEvents, our own pages the columns
        both = {**json.loads(view.trace.to_json()), **chrome_trace(view.trace)}
        Path(trace).write_text(json.dumps(both, separators=(",", ":")))
        report["trace"]["file"] = trace
    if html:
        from parallel_core.views.player import html as player_html

        Path(html).write_text(
            player_html(view.trace, own=view.own_device(), title=view.plan.layout)
        )
    if as_json:
        click.echo(json.dumps(report))
    else:
        print_summary(view, report)


def follow(request: Request) -> tuple[RunView, dict[str, Any]]:
    """Run on a pool of this command's own, with a progress bar on stderr; Ctrl-C ends it."""
    from parallel_core.launch import Pool

    view = RunView(request.plan)
    bar = progress_bar(request.steps, request.plan.layout)
    with Pool() as pool, bar as advance, pool.start(*request.order) as run:
        for event in run.events():
            view.feed(event)
            advance(view)
        report = view.finish(run.wait())
    return view, report
