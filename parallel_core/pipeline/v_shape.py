"""The V: rank r holds stages r and 2p-1-r, and one block, repeated every 6 beats, is the schedule.

Nouns. A *leg* is one way through the ranks. A microbatch has four: F down the V (stages 0 to p-1),
F up (p to 2p-1), I back down and I up again; a *pass* is one task of a leg. A *block* says at which
beat each rank has the four passes of one microbatch. The next microbatch does the same PERIOD beats
later: four passes and two W are what a rank computes for each. V-Min's block for p=2, and three
microbatches of it (lower case for the stages p to 2p-1, as in the papers):

    rank 0   F0  .  . f0 i0  . F1 I0  . f1 i1  . F2 I1  . f2 i2  .  . I2
    rank 1    . F0 f0  .  . i0 I0 F1 f1  .  . i1 I1 F2 f2  .  . i2 I2  .

How long a block lives decides the memory: a rank that holds a chunk (one microbatch on one of its
two stages) for L beats holds L/PERIOD of them at a time. A block with steps a, b, c, d between
ranks on its legs keeps the two chunks of rank r for about (a+b+c+d) p - (a+d) r and (b+c) r beats:
alike on all ranks where a + d = b + c, and p (a+b+c+d) / 6 chunks, half as many microbatches.

Then the beats are squeezed: passes keep the order of their beats, W fills the gaps, in an idle beat
a pass may overtake others, and nobody ever holds more chunks than the cap.
Qi et al. 2024, arXiv:2405.15362 (their B is our I).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

from parallel_core.pipeline.order import Order, Task
from parallel_core.program import Op

PERIOD = 6
"""Beats from one microbatch to the next: F, I and W on two stages."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Beats of one microbatch: `steps` from rank to rank on each leg, `turns` between the legs.

    The legs turn on ranks p-1, 0 and p-1. `early` lets a rank that would idle take a later pass,
    which shortens the fill and the drain.
    """

    steps: tuple[int, int, int, int]
    turns: tuple[int, int, int] = (1, 1, 1)
    early: bool = True

    def beats(self, p: int) -> list[tuple[int, int, int, int]]:
        """Per rank the beats of its F and F, I and I, in the order of the legs.

        >>> Block(steps=(1, 1, 1, 1)).beats(2)
        [(0, 3, 4, 7), (1, 2, 5, 6)]
        """
        starts = [0]
        for step, turn in zip(self.steps, self.turns, strict=False):
            starts.append(starts[-1] + (p - 1) * step + turn)
        found = []
        for rank in range(p):
            ways = (rank, p - 1 - rank, rank, p - 1 - rank)
            legs = zip(starts, self.steps, ways, strict=True)
            f, f_up, i, i_up = (start + step * way for start, step, way in legs)
            found.append((f, f_up, i, i_up))
            assert len({beat % PERIOD for beat in found[-1]}) == 4, "blocks would collide"
        return found


class _Progress:
    """How many microbatches have passed each stage, forward and back: always the first ones."""

    def __init__(self, stages: int) -> None:
        self.last = stages - 1
        self.forward, self.back = [0] * stages, [0] * stages

    def ready(self, task: Task) -> bool:
        """Whether all that a pass needs is done."""
        mb, stage = task.mb, task.stage
        if task.op is Op.F:
            return stage == 0 or self.forward[stage - 1] > mb
        return self.forward[stage] > mb and (stage == self.last or self.back[stage + 1] > mb)

    def note(self, task: Task) -> None:
        """The task ran."""
        if task.op is not Op.W:
            (self.forward if task.op is Op.F else self.back)[task.stage] += 1


class _Rank:
    """What one rank has still to do, and how many chunks it holds."""

    def __init__(self, passes: list[Task], cap: int) -> None:
        self.todo = deque(passes)
        self.weights: deque[Task] = deque()  # the W that an I has left, oldest first
        self.needed = 0  # chunks between their F and their I
        self.cap = cap
        self.did: list[Task] = []

    def choose(self, progress: _Progress, early: bool) -> Task | None:
        """The next pass, else the oldest W, else (if `early`) a later pass, else None."""
        room = self.needed + len(self.weights) < self.cap
        if self.todo and (room or self.todo[0].op is Op.I) and progress.ready(self.todo[0]):
            return self.todo.popleft()
        if self.weights:
            return self.weights.popleft()
        return self._later(progress) if early else None

    def _later(self, progress: _Progress) -> Task | None:
        """The first pass that is ready and leaves room for all those it overtakes.

        Overtaking cannot deadlock: what it needs is done, and the rest keeps the block's order.
        """
        ahead = most = self.needed
        for at, task in enumerate(islice(self.todo, 2 * progress.last)):
            if (task.op is Op.I or most < self.cap) and progress.ready(task):
                del self.todo[at]
                return task
            ahead += 1 if task.op is Op.F else -1
            most = max(most, ahead)
        return None

    def do(self, task: Task) -> None:
        """The task ran."""
        self.did.append(task)
        if task.op is Op.F:
            self.needed += 1
        elif task.op is Op.I:
            self.needed -= 1
            self.weights.append(Task(Op.W, task.mb, task.stage))


def v_shape(p: int, m: int, block: Block, *, cap: int, name: str) -> Order:
    """m blocks on p ranks, squeezed; no rank holds more than `cap` chunks from F to W.

    All ranks share a clock on which every task takes one beat.
    """
    ranks = [_Rank(_passes(rank, p, m, beats), cap) for rank, beats in enumerate(block.beats(p))]
    progress = _Progress(2 * p)
    while True:
        beat = [(rank, rank.choose(progress, block.early)) for rank in ranks]
        chosen = [(rank, task) for rank, task in beat if task is not None]
        if not chosen:
            break
        for rank, task in chosen:  # only now: what this beat makes is there from the next on
            rank.do(task)
            progress.note(task)
    assert not any(rank.todo for rank in ranks), f"{name} cannot go on under a cap of {cap}"
    return Order(tuple(tuple(rank.did) for rank in ranks), name)


def _passes(rank: int, p: int, m: int, beats: tuple[int, int, int, int]) -> list[Task]:
    """The passes of all microbatches on a rank, by beat."""
    down, up = rank, 2 * p - 1 - rank
    legs = ((Op.F, down), (Op.F, up), (Op.I, up), (Op.I, down))
    timed = [
        (beat + PERIOD * mb, Task(op, mb, stage))
        for beat, (op, stage) in zip(beats, legs, strict=True)
        for mb in range(m)
    ]
    return [task for _, task in sorted(timed)]
