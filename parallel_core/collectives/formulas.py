"""Every algorithm's cost on paper, beside its source: the table that the programs are held to.

alpha is seconds a message, beta bytes a second, S the buffer: for all_gather and reduce_scatter the
whole of it, for all_to_all what one rank has. `text` is for a port that handles one message after
another; where the latencies of a step overlap, each step costs one alpha (costs.seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parallel_core.collectives.group import Group
from parallel_core.collectives.phases import Path, Phase, direct, partners, rings, rooted, two_trees


@dataclass(frozen=True)
class Formula:
    """The parts of an algorithm, into how many chunks it cuts the buffer, its time, its source."""

    phases: tuple[Phase, ...]
    chunks: Callable[[Group], int]
    text: str
    source: str

    def messages(self, group: Group) -> int:
        """Messages of all ranks together."""
        return sum(phase.messages(group) for phase in self.phases)

    def steps(self, group: Group) -> int:
        """Steps, each of which waits for the one before."""
        return sum(phase.steps(group) for phase in self.phases)

    def sent(self, group: Group, sizes: Sequence[int], rank: int) -> int:
        """Bytes that leave a rank; `sizes` are the bytes of the chunks."""
        return sum(phase.sent(group, sizes, rank) for phase in self.phases)

    def received(self, group: Group, sizes: Sequence[int], rank: int) -> int:
        """Bytes that reach a rank."""
        return sum(phase.received(group, sizes, rank) for phase in self.phases)

    def path(self, group: Group) -> Path | None:
        """The messages that the time is made of; None where no closed form is exact."""
        paths = [phase.path(group) for phase in self.phases]
        if any(path is None for path in paths):
            return None
        return tuple(hop for path in paths if path for hop in path if hop[0])


def _one(group: Group) -> int:
    return 1


def _each(group: Group) -> int:
    return group.n


def _players(group: Group) -> int:
    return group.power_below


def _segments(group: Group) -> int:
    return 2 * group.segments


ROOT = "one link carries it all"
THAKUR = "Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521"
RING = "Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002"
SANDERS = "Sanders, Speck and Traeff 2009, doi:10.1016/j.parco.2009.09.001"
BRUCK = "Bruck et al. 1997, doi:10.1109/71.642949"
DIRECT = "PyTorch SymmetricMemory, one_shot_all_reduce and two_shot_all_reduce"
MIKAMI = "Mikami et al. 2018, arXiv:1811.05233"
HENSGEN = "Hensgen, Finkel and Manber 1988, doi:10.1007/BF01379320"

FORMULAS: dict[str, dict[str, Formula]] = {
    "send_recv": {"shift": Formula((direct.SHIFT,), _one, "α + S/β", "the model itself")},
    "broadcast": {
        "naive": Formula((rooted.DEAL,), _one, "(n-1)(α + S/β)", ROOT),
        "tree": Formula((rooted.TREE_DOWN,), _one, "⌈lg n⌉(α + S/β)", THAKUR),
        "double_tree": Formula(
            (two_trees.TWO_TREES_FROM_ROOT,), _segments, "towards S/β with more segments", SANDERS
        ),
    },
    "scatter": {
        "naive": Formula((rooted.DEAL_SHARDS,), _each, "(n-1)α + (n-1)/n S/β", ROOT),
        "tree": Formula((rooted.TREE_DOWN_SHARDS,), _each, "⌈lg n⌉α + (n-1)/n S/β", THAKUR),
    },
    "gather": {
        "naive": Formula((rooted.DEAL_SHARDS.turned,), _each, "(n-1)α + (n-1)/n S/β", ROOT),
        "tree": Formula((rooted.TREE_DOWN_SHARDS.turned,), _each, "⌈lg n⌉α + (n-1)/n S/β", THAKUR),
    },
    "reduce": {
        "naive": Formula((rooted.DEAL.turned,), _one, "(n-1)(α + S/β)", ROOT),
        "tree": Formula((rooted.TREE_DOWN.turned,), _one, "⌈lg n⌉(α + S/β)", THAKUR),
    },
    "all_gather": {
        "naive": Formula(
            (rooted.DEAL_SHARDS.turned, rooted.DEAL_REST), _each, "2(n-1)α + (n-1) S/β", ROOT
        ),
        "ring": Formula((rings.RING_PASS,), _each, "(n-1)α + (n-1)/n S/β", RING),
        "doubling": Formula((partners.DOUBLE,), _each, "lg n α + (n-1)/n S/β", THAKUR),
        "bruck": Formula((direct.SPREAD,), _each, "⌈lg n⌉α + (n-1)/n S/β", BRUCK),
        "direct": Formula((direct.DIRECT_PASS,), _each, "(n-1)α + (n-1)/n S/β", DIRECT),
    },
    "reduce_scatter": {
        "naive": Formula(
            (rooted.DEAL.turned, rooted.DEAL_SHARDS), _each, "2(n-1)α + (n²-1)/n S/β", ROOT
        ),
        "ring": Formula((rings.RING_SUM,), _each, "(n-1)α + (n-1)/n S/β", RING),
        "halving": Formula((partners.HALVE,), _each, "lg n α + (n-1)/n S/β", THAKUR),
        "direct": Formula((direct.DIRECT_SUM,), _each, "(n-1)α + (n-1)/n S/β", DIRECT),
    },
    "all_reduce": {
        "naive": Formula((rooted.DEAL.turned, rooted.DEAL), _one, "2(n-1)(α + S/β)", ROOT),
        "ring": Formula((rings.RING_SUM, rings.RING_PASS), _each, "2(n-1)α + 2(n-1)/n S/β", RING),
        "tree": Formula(
            (rooted.TREE_DOWN.turned, rooted.TREE_DOWN), _one, "2⌈lg n⌉(α + S/β)", THAKUR
        ),
        "double_tree": Formula(
            (two_trees.TWO_TREES_UP, two_trees.TWO_TREES_DOWN),
            _segments,
            "towards 2 S/β with more segments",
            SANDERS,
        ),
        "doubling": Formula(
            (partners.FOLD_IN, partners.SWAP_ALL, partners.FOLD_OUT),
            _one,
            "(lg p + 2f)(α + S/β), p the power of two below n, f = 1 to fold where n > p",
            THAKUR,
        ),
        "halving_doubling": Formula(
            (partners.FOLD_IN, partners.HALVE, partners.DOUBLE, partners.FOLD_OUT),
            _players,
            "2(lg p + f)α + 2((p-1)/p + f) S/β, p the power of two below n, f = 1 where n > p",
            THAKUR,
        ),
        "one_shot": Formula((direct.DIRECT_WHOLE,), _one, "(n-1)(α + S/β)", DIRECT),
        "two_shot": Formula(
            (direct.DIRECT_SUM, direct.DIRECT_PASS), _each, "2(n-1)α + 2(n-1)/n S/β", DIRECT
        ),
        "hierarchical": Formula(
            (rings.NODE_SUM, rings.ACROSS_SUM, rings.ACROSS_PASS, rings.NODE_PASS),
            _each,
            "2(g-1)(α + S/(gβ)) + 2(k-1)(α + S/(nβ)), k nodes of g ranks",
            MIKAMI,
        ),
    },
    "all_to_all": {
        "direct": Formula((direct.DIRECT_SUM,), _each, "(n-1)α + (n-1)/n S/β", THAKUR),
        "pairwise": Formula((direct.PAIRWISE,), _each, "(n-1)α + (n-1)/n S/β", THAKUR),
        "bruck": Formula((direct.BRUCK,), _each, "lg n (α + S/(2β)), n a power of two", BRUCK),
    },
    "barrier": {"dissemination": Formula((direct.WORD,), _each, "⌈lg n⌉α", HENSGEN)},
}
"""op -> algorithm -> its formula; the same names as ALGORITHMS."""
