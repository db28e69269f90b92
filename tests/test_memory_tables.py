"""Claims about what ZeRO leaves on a rank, the largest model that fits, and the bytes it moves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_core.cases import program_of
from parallel_core.data.traffic import Sharding, ring_bytes, times_around
from parallel_core.fields import PlanError
from parallel_core.ledger import predicted_counts, predicted_memory, wire
from parallel_core.params import param_specs
from parallel_core.plan import Plan
from parallel_core.published import table
from parallel_core.sizes import value_bytes
from parallel_core.walls.memory import Holds
from parallel_core.walls.sharding import (
    LARGEST,
    NOT_COUNTED,
    bytes_per_param,
    family,
    largest_model,
    largest_shape,
    state_of,
    state_per_rank,
)

STAGE = {"Pos": 1, "Pos+g": 2, "Pos+g+p": 3}
STRATEGY = {"DDP": 0, "ZeRO-1": 1, "ZeRO-2": 2, "ZeRO-3": 3}
GB = 1e9

stages = st.integers(0, 3)
ranks = st.integers(1, 4096)
ks = st.sampled_from([8, 12])


def printed(value: float, as_in: float) -> bool:
    """Whether `value` is `as_in` at its printed digits, rounded or cut off."""
    digits = len(str(as_in).partition(".")[2])
    cut = math.floor(value * 10**digits + 1e-9) / 10**digits
    return as_in in (round(value + 1e-9, digits), cut)


# -- printed tables ------------------------------------------------------------------------------


def test_the_table_of_the_zero_paper_is_whole():
    """Three models, six group sizes, three stages: 54 values."""
    assert len(table("zero_table1").rows) == 54


@pytest.mark.parametrize("row", table("zero_table1").rows, ids=lambda r: f"{r['model']}-{r['Nd']}")
def test_the_zero_papers_gigabytes(row):
    """Each of the 54 values, at the digits the paper prints."""
    state = state_per_rank(row["params_B"] * GB, zero=STAGE[row["stage"]], n=row["Nd"])
    assert printed(sum(state.values()) / GB, row["GB_per_device"])


@pytest.mark.parametrize("row", table("lecture_zero_8xA100").rows, ids=lambda r: r["strategy"])
def test_the_largest_models_on_eight_a100(row):
    """6.66, 16, 24.62 and 53.33 B parameters at 12, 5, 3.25 and 1.5 bytes."""
    zero = STRATEGY[row["strategy"]]
    assert bytes_per_param(zero, 8, 8) == row["bytes_per_param"]
    assert printed(largest_model(80e9, zero=zero, n=8, k=8) / GB, row["max_params_B"])


def test_seven_and_a_half_billion_on_64():
    """120, 31.4, 16.6 and 1.9 GB."""
    sizes = [sum(state_per_rank(7.5e9, zero=zero, n=64).values()) / GB for zero in range(4)]
    assert [round(size, 1) for size in sizes] == [120.0, 31.4, 16.6, 1.9]


# -- the formula ---------------------------------------------------------------------------------


@given(stages, ranks, ks, st.floats(1e6, 1e13))
def test_the_largest_model_fills_the_device(zero, n, k, room):
    """Its state is the capacity, neither more nor less."""
    most = largest_model(room, zero=zero, n=n, k=k)
    assert sum(state_per_rank(most, zero=zero, n=n, k=k).values()) == pytest.approx(room)


@given(ranks, ks)
def test_a_stage_never_costs_memory(n, k):
    """Each stage keeps at most what the one before kept, and the floors are 4, 2 and 0 bytes."""
    sizes = [bytes_per_param(zero, n, k) for zero in range(4)]
    assert sizes == sorted(sizes, reverse=True)
    for size, floor in zip(sizes[1:], (4, 2, 0), strict=True):
        assert size >= floor
    assert bytes_per_param(3, n, k) * n == pytest.approx(bytes_per_param(0, n, k))


@pytest.mark.parametrize("wrong, field", [
    ({"zero": 4, "n": 2}, "zero"), ({"zero": 1, "n": 0}, "n"),
    ({"zero": 1, "n": 2, "k": 9}, "k"), ({"zero": 1, "n": 2, "device_bytes": 0}, "device_bytes"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong, field):
    """In one sentence that names the field."""
    with pytest.raises(PlanError, match=f"^{field}="):
        largest_shape(**{"device_bytes": 80e9, **wrong})


# -- the search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("k, moments", [(12, "float32"), (8, "bfloat16")])
def test_the_search_counts_as_the_runs_do(zero, k, moments):
    """The state of a shape is the ledger's prediction, to the byte, padding included."""
    plan = Plan(model=family(2), zero=zero, dp=3, global_batch=3, dtype="bfloat16", moments=moments)
    book = predicted_memory(plan)
    state = state_of(family(2), zero=zero, n=3, k=k)
    assert {kind.value: size for kind, size in state.items()} == {
        kind: sizes[0] for kind, sizes in book.items()
    }


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("n", [1, 8, 64])
def test_the_next_of_the_family_would_not_fit(zero, n):
    """What is found fits; one size more does not; the formula's figure is never below it."""
    room = 24e9
    found = largest_shape(room, zero=zero, n=n)
    assert found is not None and found.bytes <= room
    assert found.params == sum(s.numel for s in param_specs(Plan(model=found.shape)))
    assert found.params <= largest_model(room, zero=zero, n=n)
    if found.shape.layers < LARGEST:
        more = state_of(family(found.shape.layers + 1), zero=zero, n=n)
        assert sum(more.values()) > room


def test_the_search_ends_at_both_ends():
    """Nothing fits 1 MB; the family's last fits a petabyte."""
    assert largest_shape(1e6, zero=3, n=8) is None
    huge = largest_shape(1e18, zero=0, n=1)
    assert huge is not None and huge.shape.layers == LARGEST


def test_what_is_not_counted_is_listed():
    """Activations first; and every entry is a phrase of its own."""
    assert NOT_COUNTED[0].startswith("activations")
    assert len(set(NOT_COUNTED)) == len(NOT_COUNTED) >= 5


# -- bytes that move -----------------------------------------------------------------------------


@pytest.mark.parametrize("zero", range(4))
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("keep", [False, True])
def test_the_programs_move_what_the_formula_says(zero, m, keep):
    """2Ψ, 2Ψ, (m+1)Ψ, 3mΨ: bytes of all ranks, from the programs' own messages."""
    n = 2
    plan = Plan.of(
        layers=2, hidden=32, heads=4, vocab=64, seq=16, dp=n, zero=zero, microbatches=m,
        global_batch=n * m, keep_gathered=keep and zero == 3,
    )  # fmt: skip
    psi = sum(spec.numel for spec in param_specs(plan))
    counts = predicted_counts(program_of(plan), value_bytes(plan), 1)
    ops = wire(counts, plan.mesh.degree).get("dp", {})
    moved = sum(row["wire_bytes"] for row in ops.values())
    times = times_around(zero, microbatches=m, keep_gathered=keep and zero == 3)
    assert moved == n * ring_bytes(times * psi * 4, n)


def test_stage_three_moves_half_as_much_again():
    """3Ψ to 2Ψ with one microbatch: 1.50 exactly."""
    assert times_around(3) / times_around(0) == 1.5


def test_hybrid_sharding_spares_the_slow_link():
    """1 B bf16 weights on 4 nodes of 8: 5.81 GB; or 5.25 inside and 0.375 across; 5.81 to 3.0."""
    flat = Sharding(params=1e9, ranks=32, shard=32)
    hybrid = Sharding(params=1e9, ranks=32, shard=8)
    assert flat.inside / GB == pytest.approx(5.8125) and flat.across == 0
    assert (hybrid.inside / GB, hybrid.across / GB) == (5.25, 0.375)
    assert flat.leaving_node / GB == pytest.approx(5.8125)
    assert hybrid.leaving_node / GB == 3.0
    assert flat.leaving_node / hybrid.leaving_node == pytest.approx(1.94, abs=0.01)


def test_hybrid_sharding_is_what_its_program_moves():
    """Inside and across, by axis, with 4 ranks in groups of 2."""
    plan = Plan.of(
        layers=2, hidden=32, heads=4, vocab=64, seq=16, dp=4, shard=2, zero=3, global_batch=4
    )
    psi = sum(spec.numel for spec in param_specs(plan))
    each = Sharding(params=psi, ranks=4, shard=2, node=2, width=4)
    counts = predicted_counts(program_of(plan), value_bytes(plan), 1)
    book = wire(counts, plan.mesh.degree)
    moved = {axis: sum(row["wire_bytes"] for row in ops.values()) for axis, ops in book.items()}
    assert moved == {"shard": 4 * each.inside, "replica": 4 * each.across}


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4))
def test_nothing_leaves_the_only_node(group, more, node):
    """Bytes leave a node only where there is another one, and then they do."""
    total, shard, size = 2 ** (group + more), 2**group, 2**node
    layout = Sharding(params=1e6, ranks=total, shard=shard, node=size)
    assert (layout.leaving_node > 0) == (total > size)


@pytest.mark.parametrize("wrong", [{"ranks": 30, "shard": 8}, {"ranks": 24, "shard": 12}])
def test_groups_that_do_not_fit_are_refused(wrong):
    """Groups must divide the ranks, and not straddle nodes unevenly."""
    with pytest.raises(ValueError, match="shard="):
        Sharding(params=1.0, node=8, **wrong)


def test_every_kind_of_state_is_there():
    """Weights, gradients and optimizer, as the figures colour them."""
    kinds = set(state_per_rank(1.0, zero=0, n=1))
    assert kinds == {Holds.PARAMS, Holds.GRADS, Holds.OPTIMIZER}
