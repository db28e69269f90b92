"""On real processes a collective keeps its promise, sends what was predicted, equals torch's."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

import pytest
import torch

from parallel_core.collectives import algorithms, build
from parallel_core.collectives.costs import predicted
from parallel_core.collectives.group import CollectiveError, Group
from parallel_core.collectives.live import difference, digest, error, expected, inputs_of
from parallel_core.collectives.names import total, x
from parallel_core.collectives.promise import promise
from parallel_core.collectives.request import WIDTHS

DTYPES = list(WIDTHS)


def cases(n: int) -> list[dict[str, object]]:
    """Every algorithm that allows n ranks, with a root that is not 0 and chunks of unequal size."""
    found = []
    for i, (op, algorithm) in enumerate(algorithms()):
        group = Group(n, root=n - 1, segments=1 + i % 3)
        try:
            build(op, algorithm, group)
        except CollectiveError:
            continue
        for size, dtype in ((0, "float32"), (1003, DTYPES[i % len(DTYPES)]), (5, "float64")):
            what = {"op": op, "algorithm": algorithm, "group": asdict(group)}
            found.append({"what": what, "elements": size, "dtype": dtype, "repeats": 2})
    return found


@pytest.mark.live
@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_every_algorithm_keeps_its_promise(n, on_ranks):
    """Values right, equal to the bit on all ranks, equal to torch's, and bytes as predicted."""
    every = cases(n)
    assert len(every) > 60
    by_rank = on_ranks(n, "collective_targets:run_all", cases=every)
    for i, case in enumerate(every):
        results = [told[i] for told in by_rank]
        name = (n, case["what"]["op"], case["what"]["algorithm"], case["elements"], case["dtype"])
        bound = {"bfloat16": 0.03, "float16": 0.004, "float32": 1e-5}.get(case["dtype"], 1e-12)
        for result in results:
            assert result["error"] <= bound, name
            assert (result["error_to_torch"] or 0.0) <= bound, name
        seen = defaultdict(set)
        for result in results:
            for value, found in result["digest"].items():
                seen[value].add(found)
        assert all(len(digests) == 1 for digests in seen.values()), name
        group = Group(**case["what"]["group"])
        tally = predicted(
            case["what"]["op"], case["what"]["algorithm"], group, case["elements"],
            itemsize=WIDTHS[case["dtype"]],
        )  # fmt: skip
        sent = [sum(r[3] for r in result["counts"] if r[1] == "send") // 2 for result in results]
        calls = sum(r[2] for result in results for r in result["counts"] if r[1] == "send") // 2
        assert (tuple(sent), calls) == (tally.sent, tally.messages), name


@pytest.mark.live
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16"])
def test_direct_all_reduce_through_shared_memory_equals_torchs(n, dtype, on_ranks):
    """One-shot and two-shot, sizes from none to more than a page, again and again in one room."""
    sizes = [0, 1, 2, 7, 1024, 50_001]
    for told in on_ranks(n, "collective_targets:direct", sizes=sizes, dtype=dtype, rounds=5):
        for off, same in told:
            assert off <= {"bfloat16": 0.5, "float32": 1e-4, "int64": 0}[dtype]
            assert same, "ranks hold different bits"


@pytest.mark.live
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("call", ["one_shot", "two_shot"])
def test_a_slow_reader_still_finds_the_buffers_of_its_own_call(n, call, on_ranks):
    """One rank reads late in every call, and nobody may begin the next one in its slots."""
    every = on_ranks(n, "collective_targets:late_reader", call=call, calls=4)
    for told in every:
        assert told == [float(n * (k + 1)) for k in range(4)]


# ---------------------------------------------------------------------------- the judges


@pytest.mark.parametrize("dtype", WIDTHS)
def test_inputs_are_those_of_the_rank_the_value_and_the_type(dtype):
    """Any process draws the same; another rank, chunk or op's value gets other numbers."""
    kind = getattr(torch, dtype)
    draw, again = (inputs_of(lambda value: 500, kind) for _ in range(2))
    assert draw(1, x(2)).dtype == kind and torch.equal(draw(1, x(2)), again(1, x(2)))
    others = [draw(0, x(2)), draw(1, x(0)), draw(1, total(2))]
    assert all((other != draw(1, x(2))).float().mean() > 0.5 for other in others)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_a_wrong_result_is_seen(dtype):
    """A term left out or taken twice, a mean for a sum, one element: an error beyond rounding."""
    group, kind = Group(3), getattr(torch, dtype)
    word, draw = promise("all_reduce", group, 1), inputs_of(lambda value: 50, kind)
    terms = [draw(r, x(0)) for r in group.ranks]
    truth = expected(word.ends[0][total(0)], draw)
    right = truth.to(kind)
    allowed = 0.0 if not kind.is_floating_point else 4 * torch.finfo(kind).eps
    assert error({total(0): right}, word, 0, draw) <= allowed
    one = right.clone()
    one[7] += 1
    for wrong in (one, right - terms[2], right + terms[0], (truth / 3).to(kind)):
        assert error({total(0): wrong}, word, 0, draw) > max(3 * allowed, 0.005), dtype
        assert difference({total(0): wrong}, {total(0): right}) > max(3 * allowed, 0.005)
    assert difference({total(0): right}, {total(0): right}) == 0.0


def test_an_expectation_leaves_its_terms_alone():
    """Inputs that somebody keeps are not added up in place; small integers wrap as they do."""
    kept = [torch.full((2,), 200.0, dtype=torch.float64) for _ in range(2)]
    terms = frozenset({("x", 0, 0), ("x", 1, 0)})
    assert expected(terms, lambda rank, value: kept[rank]).tolist() == [400.0, 400.0]
    assert kept[0].tolist() == [200.0, 200.0]
    small = expected(terms, lambda rank, value: kept[rank].to(torch.uint8))
    assert small.tolist() == [400 % 256] * 2


def test_one_bit_is_another_digest():
    """0.0 and -0.0 are equal as numbers, and two digests."""
    plus, minus = torch.zeros(4), torch.zeros(4)
    minus[3] = -0.0
    assert digest(plus) == digest(torch.zeros(4)) != digest(minus)
