"""Reduce-scatter and all-gather by pairwise exchange are gloo's in result, and cheaper in bytes."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.live


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_results_are_gloos(n, on_ranks):
    """To rounding; repeated they are equal to the bit, in place or not, begun or waited for, in
    pieces of any size."""
    for piece in (4, 100, 1 << 22):
        for told in on_ranks(n, "exchange_targets:beside_gloo", rows=7, width=5, piece=piece):
            assert told["error"] <= 1e-6
            assert told["repeats"] and told["gathers"] and told["in_place_spares_the_others"]
            assert told["begun"]


@pytest.mark.parametrize("n", [2, 4])
def test_each_rank_sends_what_a_ring_would(n, on_ranks):
    """(n-1)/n of the whole in both, by the kernel's own count."""
    args = {"rows": 1 << 10, "width": 256, "piece": 1 << 18}
    for told in on_ranks(n, "exchange_targets:beside_gloo", **args):
        if not any(told["sent"]):
            pytest.skip("this kernel does not count written bytes in /proc/self/io")
        for sent in told["sent"]:
            assert sent == pytest.approx(told["bytes"] * (n - 1) / n, rel=0.01)


def test_the_own_tile_is_there_before_anybody_has_sent(on_ranks, tmp_path):
    """And each of the others when its member is told, in the order of their hops."""
    for me, told in enumerate(
        on_ranks(3, "exchange_targets:tiles", flag=str(tmp_path / "first tile"))
    ):
        assert told["seen"]
        assert told["members"] == [[m, [m] * 3] for m in (me, (me - 1) % 3, (me - 2) % 3)]


def test_groups_of_one_axis_keep_apart(on_ranks):
    """On a 2 x 2 mesh the neighbours are rank 0 and 1, the replicas rank 0 and 2."""
    by_rank = on_ranks(4, "exchange_targets:among_two_axes")
    assert by_rank[0] == [[11, 1, 10], [101, 1, 100]]
    assert by_rank[3] == [[1100, 100, 1000], [1010, 10, 1000]]
