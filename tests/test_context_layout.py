"""Layouts hold every position once, tiles every pair of the mask once, zigzag is fair."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from parallel_core.context import METHODS, layout_of
from parallel_core.context.layout import Layout, Travels, in_step, meets, tile_map, work

RANKS = st.integers(1, 6)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout: lengths that divide or not, or are shorter than the ranks are many."""
    rings, ulysses = draw(RANKS), draw(st.integers(1, 3))
    return Layout(
        seq=draw(st.integers(1, 40)),
        ranks=rings * ulysses,
        zigzag=draw(st.booleans()),
        ulysses=ulysses,
        cached=draw(st.integers(0, 9)),
    )


def keys_of(layout: Layout, ring: int) -> list[int]:
    """Where the keys of a block stand, cached ones first."""
    ranks = range(ring * layout.ulysses, (ring + 1) * layout.ulysses)
    old = [p for rank in ranks for p in layout.cached_positions(rank)]
    # padding of the cache has no place in the sequence
    old = [p if p < layout.cached else -1 for p in old]
    return old + [p for rank in ranks for p in layout.positions(rank)]


def queries_of(layout: Layout, ring: int) -> list[int]:
    ranks = range(ring * layout.ulysses, (ring + 1) * layout.ulysses)
    return [p for rank in ranks for p in layout.positions(rank)]


@given(layouts())
def test_every_position_lies_on_one_rank(layout):
    """Equal shares; together they are the padded sequence, and padding is its end."""
    every = [p for rank in range(layout.ranks) for p in layout.positions(rank)]
    assert sorted(every) == list(range(layout.cached, layout.cached + layout.padded))
    assert {len(layout.positions(rank)) for rank in range(layout.ranks)} == {layout.share}
    real = [
        p
        for rank in range(layout.ranks)
        for p, ok in zip(layout.positions(rank), layout.is_real(rank), strict=True)
        if ok
    ]
    assert sorted(real) == list(range(layout.cached, layout.cached + layout.seq))
    assert layout.padded - layout.seq < 2 * layout.ranks
    cached = [p for rank in range(layout.ranks) for p in layout.cached_positions(rank)]
    assert cached[: layout.cached] == list(range(layout.cached))


@given(layouts())
def test_what_is_real_comes_first_in_a_block(layout):
    """Positions of a block ascend, so its tokens are a prefix, of `real` length."""
    for ring in range(layout.rings):
        positions = queries_of(layout, ring)
        assert positions == sorted(positions)
        assert sum(p < layout.cached + layout.seq for p in positions) == layout.real(ring)


@given(layouts(), st.booleans(), st.sampled_from(Travels))
def test_tiles_cover_the_mask_once(layout, causal, travels):
    """Over all members and hops each (query, key) of the mask is computed once, padding never."""
    end = layout.cached + layout.seq
    seen = []
    for ring in range(layout.rings):
        for hop in range(layout.rings):
            q, k = meets(ring, hop, layout.rings, travels)
            rows, cols = queries_of(layout, q), keys_of(layout, k)
            for tile in layout.tiles(q, k, causal):
                pairs = [
                    (rows[i], cols[j])
                    for i in tile.rows
                    for j in tile.cols
                    if not tile.diagonal or j - tile.cols.start <= i - tile.rows.start
                ]
                assert len(pairs) == tile.pairs
                seen += pairs
                assert set(tile.rows) <= set(layout.rows(q, k, causal))
    right = [(q, k) for q in range(layout.cached, end) for k in range(q + 1 if causal else end)]
    assert sorted(seen) == sorted(right)


@given(layouts(), st.booleans(), st.sampled_from([Travels.KV, Travels.Q]))
def test_the_tile_map_is_the_tiles(layout, causal, travels):
    """Without padding and cache the map's chunks are the tiles' area, member by member and hop by
    hop; each chunk of the mask stands in it once."""
    whole = Layout(
        seq=layout.padded, ranks=layout.ranks, zigzag=layout.zigzag, ulysses=layout.ulysses
    )
    steps = tile_map(whole, causal, travels)
    table = work(whole, causal, travels)
    unit = Fraction(whole.chunk, whole.block) ** 2
    for ring in range(whole.rings):
        for hop in range(whole.rings):
            here = [s for s in steps if (s.ring, s.hop) == (ring, hop)]
            assert sum(unit / 2 if s.diagonal else unit for s in here) == table[ring][hop]
    chunks = whole.padded // whole.chunk
    cells = sorted((s.q_chunk, s.k_chunk) for s in steps)
    assert cells == [(q, k) for q in range(chunks) for k in range(q + 1 if causal else chunks)]


@given(st.integers(1, 12), st.integers(1, 4))
def test_contiguous_costs_two_minus_one_nth_of_zigzag(n, size):
    """Work r + 1/2 on rank r against n/2 everywhere; a ring in step takes n - 1/2 against n/2."""
    plain, zigzag = (Layout(seq=2 * n * size, ranks=n, zigzag=z) for z in (False, True))
    assert [sum(hops) for hops in work(plain)] == [r + Fraction(1, 2) for r in range(n)]
    assert {sum(hops) for hops in work(zigzag)} == {Fraction(n, 2)}
    assert {hop for hops in work(zigzag) for hop in hops} == {Fraction(1, 2)}
    assert in_step(work(plain)) / in_step(work(zigzag)) == 2 - Fraction(1, n)


def test_four_ranks_as_the_lesson_has_them():
    """0.5, 1.5, 2.5, 3.5: the first has the least; where queries travel the last has."""
    plain = Layout(seq=64, ranks=4)
    assert [float(sum(hops)) for hops in work(plain)] == [0.5, 1.5, 2.5, 3.5]
    assert [float(sum(hops)) for hops in work(plain, travels=Travels.Q)] == [3.5, 2.5, 1.5, 0.5]
    assert in_step(work(plain)) == Fraction(7, 2)
    assert in_step(work(Layout(seq=64, ranks=4, zigzag=True))) == 2
    assert [float(sum(hops)) for hops in work(plain, causal=False)] == [4.0] * 4


def test_the_picture_of_the_zigzag_is_true():
    """The eighths in the docstring of layout.py."""
    zigzag = Layout(seq=8, ranks=4, zigzag=True)
    assert [zigzag.chunks(r) for r in range(4)] == [(0, 7), (1, 6), (2, 5), (3, 4)]
    hop1 = [(s.ring, s.q_chunk, s.k_chunk) for s in tile_map(zigzag) if s.hop == 1]
    assert hop1[:2] == [(0, 7, 3), (0, 7, 4)]  # from a higher rank: the second half of q
    assert hop1[2:4] == [(1, 1, 0), (1, 6, 0)]  # from a lower one: the first half of kv


def test_each_method_lays_out_its_own_way():
    """Ulysses is one block for all; the hybrid `ulysses` ranks a block."""
    for name, method in METHODS.items():
        layout = layout_of(name, 64, ranks=4)
        assert layout.zigzag == method.zigzag
        assert layout.rings == {"ulysses": 1, "hybrid": 2}.get(name, 4)
    hybrid = layout_of("hybrid", 64, ranks=4)  # ranks 0 and 1 share chunks 0 and 3
    assert [hybrid.positions(r)[0] for r in range(4)] == [0, 48, 16, 32]
