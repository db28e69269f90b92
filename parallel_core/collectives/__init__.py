"""Collectives: what moves, and how. Each algorithm is a pure function from a Group to a Program.

The table is the reading list: naive.py, ring.py and tree.py first, then the others in any order.
torus.py is one more all-reduce, for simulated tori: what one rank does stands for all.
promise.py says what each op must do, names.py how values are called, script.py how a builder
writes messages down; proof.py proves a program, picture.py prints it, formulas.py prices it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator

from parallel_core.collectives import (
    barrier,
    bruck,
    direct,
    double_tree,
    doubling,
    halving,
    hierarchical,
    naive,
    pairwise,
    ring,
    shift,
    tree,
)
from parallel_core.collectives.group import CollectiveError, Group
from parallel_core.program import Program

Builder = Callable[[Group], Program]

ALGORITHMS: dict[str, dict[str, Builder]] = {
    "send_recv": {"shift": shift.send_recv},
    "broadcast": {
        "naive": naive.broadcast,
        "tree": tree.broadcast,
        "double_tree": double_tree.broadcast,
    },
    "scatter": {"naive": naive.scatter, "tree": tree.scatter},
    "gather": {"naive": naive.gather, "tree": tree.gather},
    "reduce": {"naive": naive.reduce, "tree": tree.reduce},
    "all_gather": {
        "naive": naive.all_gather,
        "ring": ring.all_gather,
        "doubling": halving.all_gather,
        "bruck": bruck.all_gather,
        "direct": direct.all_gather,
    },
    "reduce_scatter": {
        "naive": naive.reduce_scatter,
        "ring": ring.reduce_scatter,
        "halving": halving.reduce_scatter,
        "direct": direct.reduce_scatter,
    },
    "all_reduce": {
        "naive": naive.all_reduce,
        "ring": ring.all_reduce,
        "tree": tree.all_reduce,
        "double_tree": double_tree.all_reduce,
        "doubling": doubling.all_reduce,
        "halving_doubling": halving.all_reduce,
        "one_shot": direct.one_shot,
        "two_shot": direct.two_shot,
        "hierarchical": hierarchical.all_reduce,
    },
    "all_to_all": {
        "direct": direct.all_to_all,
        "pairwise": pairwise.all_to_all,
        "bruck": bruck.all_to_all,
    },
    "barrier": {"dissemination": barrier.barrier},
}
"""op -> algorithm -> builder."""

TRANSPOSE = {
    "send_recv": "send_recv",
    "broadcast": "reduce",
    "reduce": "broadcast",
    "scatter": "gather",
    "gather": "scatter",
    "all_gather": "reduce_scatter",
    "reduce_scatter": "all_gather",
    "all_reduce": "all_reduce",
    "all_to_all": "all_to_all",
}
"""op -> the op that is its backward, where every rank's loss counts.

A collective is a matrix: output = M input, M of zeros and ones. Its backward is M transposed:
arrows turn round, a copy becomes a sum and a sum a copy. send_recv goes back the other way; a
barrier carries nothing and has none.

Megatron's g is an all-reduce in the forward, and yet its backward is the identity, not an
all-reduce. No contradiction: after g every rank computes the same loss, and that replicated loss
counts once, not once a rank. Summed over n ranks it would be n times too large, which is just what
the all-reduce of n equal gradients would make of it. (f is the pair's other half: identity
forward, all-reduce backward.) Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""


def build(op: str, algorithm: str, group: Group) -> Program:
    """The program of `op` by `algorithm`; CollectiveError names the closest of the table."""
    if op not in ALGORITHMS:
        raise CollectiveError(f"no collective {op!r}; the closest is {_closest(op, ALGORITHMS)!r}")
    if algorithm not in ALGORITHMS[op]:
        there = ALGORITHMS[op]
        raise CollectiveError(
            f"{op} has no algorithm {algorithm!r}; the closest is {_closest(algorithm, there)!r},"
            f" and there are {', '.join(there)}"
        )
    return ALGORITHMS[op][algorithm](group)


def algorithms() -> Iterator[tuple[str, str]]:
    """Every (op, algorithm) of the table, in reading order."""
    for op, names in ALGORITHMS.items():
        for name in names:
            yield op, name


def _closest(word: str, words: Iterable[str]) -> str:
    return difflib.get_close_matches(word, list(words), n=1, cutoff=0.0)[0]
