"""A program is data: a tuple of instructions per rank, and what each rank holds at the start.

Nouns. A `Value` names a tensor on a rank; it is written once, so a name is also a moment. An
`Instr` says what an op reads, writes and frees, on which lane it runs, and for communication
which mesh axis or peer it meets. A `Message` is communication that happens inside a compute op.

Readers of a program (check, prove, simulate, ledger, runtime, views) look only at these fields:
none of them knows a schedule or a method. Two rules bind them all:

    1. instructions of one lane of one rank run in program order, one at a time;
    2. an instruction starts when everything it reads has been written.

The text form is one line an instruction, and reads back to the same program:

    # rank 0 holds tokens[0]
    comm    all_reduce bucket0 @dp : grad[3,0] -> gsum[3] ~ grad[3,0]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from parallel_core.mesh import Mesh


class ProgramError(ValueError):
    """A program that cannot run: the sentence names the rank, the instruction and the remedy."""


class Op(StrEnum):
    """What an instruction does."""

    F = "F"  # forward
    B = "B"  # whole backward
    I = "I"  # noqa: E741  (the field's letter for the input-gradient half)
    W = "W"  # the weight-gradient half of backward
    O = "O"  # noqa: E741  (optimizer)
    ADD = "add"
    NORM = "norm"  # a rank's share of the loss and of the gradient's squared norm
    WAIT = "wait"  # the lane stands until the values it reads are there
    SEND = "send"
    RECV = "recv"
    BROADCAST = "broadcast"
    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    SHIFT = "shift"  # each rank of a ring hands on to the next, and takes from the one before
    BARRIER = "barrier"
    OFFLOAD = "offload"  # what a forward kept, from the device to host memory
    FETCH = "fetch"  # and back

    @property
    def is_collective(self) -> bool:
        """Whether every rank of a group takes part."""
        return self in COLLECTIVES

    @property
    def is_p2p(self) -> bool:
        """Whether it meets one peer."""
        return self in (Op.SEND, Op.RECV)

    @property
    def is_message(self) -> bool:
        """Whether it moves bytes between ranks."""
        return self.is_collective or self.is_p2p

    @property
    def is_copy(self) -> bool:
        """Whether it moves bytes between a device and its host."""
        return self in (Op.OFFLOAD, Op.FETCH)


COLLECTIVES = frozenset(
    {
        Op.BROADCAST,
        Op.ALL_REDUCE,
        Op.ALL_GATHER,
        Op.REDUCE_SCATTER,
        Op.ALL_TO_ALL,
        Op.SHIFT,
        Op.BARRIER,
    }
)


class Lane(StrEnum):
    """Where on a rank an instruction runs; each lane is in order, lanes overlap."""

    COMPUTE = "compute"
    COMM = "comm"
    TOKENS = "tokens"  # tokens to their experts and back: behind no gradient's message
    HOST = "host"  # copies between the device and its host's memory
    OUT = "out"  # sends of a collective spelled out in messages: the port that leaves the rank
    IN = "in"  # its receives: the port that enters it
    INSIDE = "inside"  # a message that a task's own work goes on beside (inside.py)
    TO_NEXT = "to_next"  # a pipeline's messages: one lane a neighbour and direction, so that
    FROM_NEXT = "from_next"  # nobody stands in line behind a message of another pair
    TO_PREV = "to_prev"
    FROM_PREV = "from_prev"


@dataclass(frozen=True, slots=True, order=True)
class Value:
    """The name of a tensor on a rank: `act[2,0]` is Value("act", (2, 0))."""

    name: str
    at: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.at))}]" if self.at else self.name

    @classmethod
    def parse(cls, text: str) -> Value:
        """The Value whose text form is `text`."""
        match = re.fullmatch(r"([A-Za-z_]\w*)(?:\[(-?\d+(?:,-?\d+)*)\])?", text)
        if match is None:
            raise ProgramError(f"'{text}' is no value; write a name and indices, as in act[2,0]")
        name, at = match.groups()
        return cls(name, tuple(int(i) for i in at.split(",")) if at else ())


@dataclass(frozen=True, slots=True)
class Message:
    """Communication inside a compute instruction: its op, its mesh axis, the tensor it hands over.

    `value` names the payload, so that a Cost knows its bytes. Of the instruction's own work the
    share `before` is done between the message before and this one, and `under` while this one is
    on its way; where no message of an instruction says so, they stand at even distances.
    """

    op: Op
    axis: str
    value: Value
    before: float = 0.0
    under: float = 0.0

    def __str__(self) -> str:
        shares = f" {self.before:g}+{self.under:g}" if self.before or self.under else ""
        return f"{self.op.value} @{self.axis} {self.value}{shares}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instr:
    """One step of one rank.

    `where` is the unit, stage or bucket it acts on ("layer3", "stage2", "bucket0"), `mb` its
    microbatch. `peer` is a rank (SEND and RECV), `axis` a mesh axis (collectives).
    """

    op: Op
    where: str = ""
    mb: int | None = None
    lane: Lane = Lane.COMPUTE
    reads: tuple[Value, ...] = ()
    writes: tuple[Value, ...] = ()
    frees: tuple[Value, ...] = ()
    axis: str | None = None
    peer: int | None = None
    inner: tuple[Message, ...] = ()

    @property
    def label(self) -> str:
        """A short name for cells, tables and errors: `F layer3 mb0`, `all_reduce bucket1`."""
        mb = "" if self.mb is None else f"mb{self.mb}"
        return " ".join(part for part in (self.op.value, self.where, mb) if part)

    def __str__(self) -> str:
        head = f"{self.lane.value:<7} {self.label}"
        head += f" @{self.axis}" if self.axis else ""
        head += f" <>{self.peer}" if self.peer is not None else ""
        text = f"{head} : {_names(self.reads)} -> {_names(self.writes)}"
        text += f" ~ {_names(self.frees)}" if self.frees else ""
        for m in self.inner:
            text += f" ! {m}"
        return text

    @classmethod
    def parse(cls, text: str) -> Instr:
        """The instruction whose text form is `text`."""
        body, *inside = text.split(" ! ")
        body, _, frees = body.partition(" ~ ")
        head, colon, flow = body.partition(" :")
        reads, arrow, writes = flow.partition("->")
        words = head.split()
        if not colon or not arrow or len(words) < 2:
            raise ProgramError(f"'{text}' is no instruction; write 'lane op where mb : in -> out'")
        given: dict[str, Any] = {"lane": Lane(words[0]), "op": Op(words[1])}
        for word in words[2:]:
            key, value = _head_word(word)
            given[key] = value
        return cls(
            **given,
            reads=_values(reads),
            writes=_values(writes),
            frees=_values(frees),
            inner=tuple(_message(part) for part in inside),
        )


def _head_word(word: str) -> tuple[str, Any]:
    if word.startswith("@"):
        return "axis", word[1:]
    if word.startswith("<>"):
        return "peer", int(word[2:])
    if re.fullmatch(r"mb\d+", word):
        return "mb", int(word[2:])
    return "where", word


def _message(text: str) -> Message:
    op, axis, value, *shares = text.split()
    before, under = map(float, shares[0].split("+")) if shares else (0.0, 0.0)
    return Message(Op(op), axis.removeprefix("@"), Value.parse(value), before, under)


def _names(values: tuple[Value, ...]) -> str:
    return " ".join(map(str, values))


def _values(text: str) -> tuple[Value, ...]:
    return tuple(Value.parse(word) for word in text.split())


@dataclass(frozen=True)
class Program:
    """What every rank does in one step, in order, and the values each rank holds at the start.

    `keeps` names the values that may still be alive at the end (updated weights, the loss);
    anything else that is left over is a leak, and `check` says so. `apart` lists pieces whose
    weights differ from rank to rank along a mesh axis, beside tp, where all do: (axis, pieces).
    """

    mesh: Mesh
    ranks: tuple[tuple[Instr, ...], ...]
    holds: tuple[tuple[Value, ...], ...]
    keeps: tuple[tuple[Value, ...], ...]
    name: str = ""
    apart: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.ranks), len(self.holds), len(self.keeps), self.mesh.size}
        if len(sizes) != 1:
            raise ProgramError(f"{self.name}: one list per rank of the mesh, got {sizes} lists")

    def __iter__(self) -> Iterator[tuple[int, int, Instr]]:
        """Every (rank, index, instruction), rank by rank."""
        for rank, instrs in enumerate(self.ranks):
            for index, instr in enumerate(instrs):
                yield rank, index, instr

    def __str__(self) -> str:
        joined = [f"{name}={'*'.join(parts)}" for name, parts in self.mesh.joins]
        axes = " ".join([*(f"{axis}={degree}" for axis, degree in self.mesh.axes), *joined])
        lines = [f"program {self.name or 'unnamed'} on {axes}"]
        lines += [f"# apart {axis} {' '.join(map(str, mine))}" for axis, mine in self.apart]
        for rank, instrs in enumerate(self.ranks):
            lines += [f"# rank {rank} holds {_names(self.holds[rank])}"]
            lines += [f"# rank {rank} keeps {_names(self.keeps[rank])}"]
            lines += map(str, instrs)
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Program:
        """The program whose text form is `text`; raises ProgramError naming the line."""
        first, *lines = text.strip().splitlines()
        name, _, axes = first.removeprefix("program ").partition(" on ")
        pairs = [pair.split("=") for pair in axes.split()]
        mesh = Mesh(
            tuple((axis, int(degree)) for axis, degree in pairs if degree.isdigit()),
            tuple((name, tuple(of.split("*"))) for name, of in pairs if not of.isdigit()),
        )
        ranks: list[list[Instr]] = []
        ends: dict[str, list[tuple[Value, ...]]] = {"holds": [], "keeps": []}
        apart = [line.split()[2:] for line in lines if line.startswith("# apart ")]
        lines = [line for line in lines if not line.startswith("# apart ")]
        for number, line in enumerate(lines, start=2):
            try:
                if match := re.match(r"# rank \d+ (holds|keeps) ?(.*)", line):
                    ends[match[1]].append(_values(match[2]))
                    ranks += [[]] if match[1] == "holds" else []
                else:
                    ranks[-1].append(Instr.parse(line))
            except (ValueError, IndexError) as error:
                raise ProgramError(f"line {number}: {error}") from None
        named = "" if name == "unnamed" else name
        every = tuple(tuple(instrs) for instrs in ranks)
        cut = tuple((axis, tuple(map(int, mine))) for axis, *mine in apart)
        return cls(mesh, every, tuple(ends["holds"]), tuple(ends["keeps"]), named, cut)

    def to_json(self) -> str:
        """One JSON object: mesh, name, and per rank its instructions as text."""
        ranks = [
            {"holds": _names(holds), "keeps": _names(keeps), "instrs": [str(i) for i in instrs]}
            for instrs, holds, keeps in zip(self.ranks, self.holds, self.keeps, strict=True)
        ]
        mesh = {"mesh": self.mesh.axes, "joins": self.mesh.joins}
        return json.dumps({"name": self.name, **mesh, "apart": self.apart, "ranks": ranks})

    @classmethod
    def from_json(cls, text: str) -> Program:
        """The program written by `to_json`."""
        data = json.loads(text)
        return cls(
            mesh=Mesh(
                tuple((axis, degree) for axis, degree in data["mesh"]),
                tuple((name, tuple(parts)) for name, parts in data.get("joins", ())),
            ),
            ranks=tuple(tuple(Instr.parse(i) for i in rank["instrs"]) for rank in data["ranks"]),
            holds=tuple(_values(rank["holds"]) for rank in data["ranks"]),
            keeps=tuple(_values(rank["keeps"]) for rank in data["ranks"]),
            name=data["name"],
            apart=tuple((axis, tuple(mine)) for axis, mine in data.get("apart", ())),
        )
