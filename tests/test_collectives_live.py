"""On real processes a collective keeps its promise, sends what was predicted, equals torch's."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

import pytest

from parallel_core.collectives import algorithms, build
from parallel_core.collectives.costs import predicted
from parallel_core.collectives.group import CollectiveError, Group
from parallel_core.collectives.request import WIDTHS

pytestmark = pytest.mark.live

DTYPES = ["float32", "int64", "bfloat16", "uint8"]


def cases(n: int) -> list[dict[str, object]]:
    """Every algorithm that allows n ranks, with a root that is not 0 and chunks of unequal size."""
    found = []
    for i, (op, algorithm) in enumerate(algorithms()):
        group = Group(n, root=n - 1, segments=1 + i % 3)
        try:
            build(op, algorithm, group)
        except CollectiveError:
            continue
        for size, dtype in ((0, "float32"), (1003, DTYPES[i % 4]), (5, "float64")):
            what = {"op": op, "algorithm": algorithm, "group": asdict(group)}
            found.append({"what": what, "elements": size, "dtype": dtype, "repeats": 2})
    return found


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_every_algorithm_keeps_its_promise(n, on_ranks):
    """Values right, equal to the bit on all ranks, equal to torch's, and bytes as predicted."""
    every = cases(n)
    assert len(every) > 60
    by_rank = on_ranks(n, "collective_targets:run_all", cases=every)
    for i, case in enumerate(every):
        results = [told[i] for told in by_rank]
        name = (n, case["what"]["op"], case["what"]["algorithm"], case["elements"], case["dtype"])
        bound = {"bfloat16": 0.03, "float32": 1e-5}.get(case["dtype"], 1e-12)
        for result in results:
            assert result["error"] <= bound, name
            assert (result["error_to_torch"] or 0.0) <= bound, name
        seen = defaultdict(set)
        for result in results:
            for value, digest in result["digest"].items():
                seen[value].add(digest)
        assert all(len(digests) == 1 for digests in seen.values()), name
        group = Group(**case["what"]["group"])
        tally = predicted(
            case["what"]["op"], case["what"]["algorithm"], group, case["elements"],
            itemsize=WIDTHS[case["dtype"]],
        )  # fmt: skip
        sent = [sum(r[3] for r in result["counts"] if r[1] == "send") // 2 for result in results]
        calls = sum(r[2] for result in results for r in result["counts"] if r[1] == "send") // 2
        assert (tuple(sent), calls) == (tally.sent, tally.messages), name


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16"])
def test_direct_all_reduce_through_shared_memory_equals_torchs(n, dtype, on_ranks):
    """One-shot and two-shot, sizes from none to more than a page, again and again in one room."""
    sizes = [0, 1, 2, 7, 1024, 50_001]
    for told in on_ranks(n, "collective_targets:direct", sizes=sizes, dtype=dtype, rounds=5):
        for off, same in told:
            assert off <= {"bfloat16": 0.5, "float32": 1e-4, "int64": 0}[dtype]
            assert same, "ranks hold different bits"
