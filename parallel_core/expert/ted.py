"""Tensor x expert x data: two meshes on the same ranks, one for the experts and one for the rest.

    world 8, tp 2, ep 2     rank          0 1 2 3 4 5 6 7
                            tensor        0 1 0 1 0 1 0 1     both meshes
                            expert        0 0 1 1 0 0 1 1     experts: tp x ep x 2
                            expert data   0 0 0 0 1 1 1 1
                            data          0 0 1 1 2 2 3 3     the rest: tp x 4

Experts take a part of data parallelism: ep x expert data = data, and the world grows by nothing. An
expert's gradient is summed over the expert-data ranks only, and scaled by the whole data size, for
it has seen the tokens of all of it.

Ranks of a tensor group hold the same tokens. If each sends them all, every token goes tp times;
*dropping duplicates*, each sends its part, and the group gathers what arrived: the slow axis
carries a tp-th, the fast one (tp-1)/tp more. Singh et al. 2023, DeepSpeed-TED, arXiv:2303.06318.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

GROUPS = ("tensor", "expert", "expert data", "data")


@dataclass(frozen=True)
class Place:
    """Where a rank stands on both meshes."""

    tensor: int
    expert: int
    expert_data: int
    data: int


@dataclass(frozen=True, kw_only=True)
class Ted:
    """A grid of `tp` x `ep` x expert data, tensor innermost. ValueError if they do not divide."""

    world: int
    tp: int
    ep: int

    def __post_init__(self) -> None:
        if min(self.world, self.tp, self.ep) < 1 or self.world % (self.tp * self.ep):
            raise ValueError(
                f"tp*ep={self.tp * self.ep} must divide world_size={self.world}: experts are dealt"
                " out over data-parallel ranks"
            )

    @property
    def data(self) -> int:
        """Ranks that hold the same part of what is not an expert."""
        return self.world // self.tp

    @property
    def expert_data(self) -> int:
        """Ranks that hold the same part of an expert."""
        return self.data // self.ep

    def place(self, rank: int) -> Place:
        """Both coordinates of a rank.

        >>> Ted(world=8, tp=2, ep=2).place(6)
        Place(tensor=0, expert=1, expert_data=1, data=3)
        """
        data, tensor = divmod(rank, self.tp)
        return Place(tensor, data % self.ep, data // self.ep, data)

    def group(self, name: str, rank: int) -> tuple[int, ...]:
        """The ranks that `rank` meets on an axis of GROUPS, itself among them.

        >>> Ted(world=8, tp=2, ep=2).group("expert data", 6)
        (2, 6)
        """
        mine = self.place(rank)
        fixed: dict[str, Callable[[Place], tuple[int, ...]]] = {
            "tensor": lambda at: (at.expert, at.expert_data),
            "expert": lambda at: (at.tensor, at.expert_data),
            "expert data": lambda at: (at.tensor, at.expert),
            "data": lambda at: (at.tensor,),
        }
        if name not in fixed:
            raise ValueError(f"no axis {name!r}; there are {', '.join(GROUPS)}")
        same = fixed[name]
        return tuple(r for r in range(self.world) if same(self.place(r)) == same(mine))

    def sent(self, tokens: int, top_k: int, row: int, *, drop: bool) -> dict[str, Fraction]:
        """Bytes a rank sends to bring its group's `tokens` to evenly loaded experts, by axis.

        `row` bytes a token and choice; `drop`: duplicates are not sent.
        """
        whole = Fraction(tokens * top_k * row)
        part = whole / self.tp if drop else whole
        gathered = part * (self.tp - 1) if drop else Fraction(0)  # its part, to each of the others
        return {"expert": part * (self.ep - 1) / self.ep, "tensor": gathered}
