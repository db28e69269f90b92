"""Groups that an algorithm takes, for hypothesis: any n, node, root and segments that it allows."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from parallel_core.collectives import CollectiveError, Group, algorithms, build

TABLE = tuple(algorithms())


@cache
def shapes(op: str, name: str, most: int) -> tuple[tuple[int, int], ...]:
    """Every (n, node) up to n = most that the algorithm does not refuse."""
    taken = []
    for n in range(2, most + 1):
        for node in range(1, n) if name == "hierarchical" else (2,):
            try:
                build(op, name, Group(n, node=node))
            except CollectiveError:
                continue
            taken.append((n, node))
    return tuple(taken)


def groups(op: str, name: str, most: int = 12) -> st.SearchStrategy[Group]:
    """Groups of the algorithm with any root and one to three segments."""
    return st.sampled_from(shapes(op, name, most)).flatmap(
        lambda shape: st.builds(
            Group,
            st.just(shape[0]),
            root=st.integers(0, shape[0] - 1),
            node=st.just(shape[1]),
            segments=st.integers(1, 3),
        )
    )
