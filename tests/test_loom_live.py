"""The tensor loom on real ranks: equal to one process, counted as predicted, faults turn it red."""

from __future__ import annotations

import json
from contextlib import nullcontext
from itertools import product

import pytest
from click.testing import CliRunner

from parallel_core import launch
from parallel_core.cli import loom_command
from parallel_core.loom.by_hand import by_hand, inputs
from parallel_core.loom.report import LoomView, follow, values_of
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import PATTERNS
from parallel_core.trace import Kind

pytestmark = pytest.mark.live
SHAPE = {"n": 8, "k": 8, "m": 16, "d": 4, "backward": True, "repeats": 2}


def requests(ranks):
    """Every layout, with and without sequence parallelism, both nonlinearities, both fillings."""
    asked = []
    for pattern, sp, act in product(PATTERNS, (False, True), ("relu", "gelu")):
        numbers = "integers" if act == "relu" else "normal"
        asked.append(
            LoomRequest(layout=pattern, ranks=ranks, sp=sp, act=act, numbers=numbers, **SHAPE)
        )
    return asked


def reports(asked, on_ranks, target="every", **more):
    """Each request's report and the ranks' results."""
    flat = [request.flat() for request in asked]
    by_rank = on_ranks(asked[0].ranks, f"loom_targets:{target}", requests=flat, **more)
    by_request = list(zip(*by_rank, strict=True))
    return [
        (LoomView(request).finish(results), results)
        for request, results in zip(asked, by_request, strict=True)
    ]


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_layout_equals_one_process_and_its_prediction(ranks, on_ranks):
    """max |parallel - single| is rounding, 0 for relu on integers; messages in kind, order and
    bytes, FLOPs and resident bytes are those of the program; the late sum costs as much and is
    far off. Every number of every rank is the one worked by hand."""
    asked = requests(ranks)
    for request, (report, results) in zip(asked, reports(asked, on_ranks), strict=True):
        assert report["agree"], (request, report)
        late = PATTERNS[request.layout].late
        assert report["kept"] is not late, (request, report["errors"])
        assert bool(report["refused"]) is late
        if request.numbers == "integers":
            assert (report["max_abs_error"] > 1) if late else report["max_abs_error"] == 0
            whole = inputs(request.weave, request.sizes, request.seed)
            assert values_of(results) == by_hand(request.weave, whole, request.act), request
        elif late:
            largest = max(each["largest"] for each in report["errors"].values())
            assert report["max_abs_error"] > 0.05 * largest
        outputs = len(request.weave.outputs)
        assert len(report["errors"]) == outputs == 2 + len(PATTERNS[request.layout].cuts)


@pytest.mark.parametrize("kind", ["chatty", "forgetful"])
def test_a_message_too_many_or_a_sum_forgotten_is_seen(kind, on_ranks):
    """The counts differ from the program in both; the numbers in the second."""
    asked = [LoomRequest(layout=p, ranks=2, repeats=2) for p in ("row", "column-row", "column")]
    found = reports(asked, on_ranks, "faulty", kind=kind)
    for request, (report, _) in zip(asked, found, strict=True):
        sends = request.layout != "column"
        assert report["agree"] is not sends
        assert report["kept"] is (kind == "chatty" or not sends)


def test_a_run_is_a_measured_trace_with_its_own_numbers(pool):
    """A span an instruction and repeat on every rank, messages with their bytes, the badge; large
    matrices are compared but not handed back."""
    request = LoomRequest(layout="row-column", ranks=2, act="gelu", backward=True)
    report, view, values = follow(request, pool)
    trace = view.trace
    assert trace.kind is Kind.MEASURED and "2 ranks" in trace.provenance.badge
    assert len(trace.spans) == 2 * 3 * len(request.weave.steps)
    sent = [s.bytes for s in trace.only(1).by_rank[0] if s.axis == "tp"]
    assert sum(sent) == sum(report["payload_bytes"]["measured"])
    assert values is not None and len(values) == 2 and report["seconds"] > 0
    large = LoomRequest(layout="row", ranks=2, n=64, k=64, m=64, numbers="normal")
    report, _, values = follow(large, pool)
    assert values is None and report["kept"] and report["agree"]
    assert 0 < report["max_abs_error"] < 1e-4, "float32 sums in another order differ a little"


def test_the_command_runs_counts_and_fails_where_the_sum_is_late(pool, monkeypatch):
    """JSON with nothing else on stdout; exit code 0 for a right layout, 1 for the planted one."""
    words = ["--ranks", "2", "--repeats", "1", "--json"]
    right = CliRunner().invoke(loom_command.command, ["--layout", "column-row", *words])
    assert right.exit_code == 0, right.output
    report = json.loads(right.stdout)
    assert report["max_abs_error"] == 0 and report["messages"]["measured"] == [1, 0]
    monkeypatch.setattr(launch, "Pool", lambda **_: nullcontext(pool))  # one start is enough
    request = LoomRequest(ranks=2, repeats=1, layout="late-sum")
    words = request.command().split()[2:]
    late = CliRunner().invoke(loom_command.command, words, standalone_mode=False)
    assert late.return_value == 1 and "WRONG" in late.output
