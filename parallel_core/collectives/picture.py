"""A collective as text: who sends which chunk to whom, step by step. A row a rank, a column a step.

    c2 -> r1         chunk 2, its input, its sum or its partial sum, to rank 1
    c0-3 -> r1 r2    chunks 0 to 3, to rank 1 and to rank 2
    b2.0 -> r1       the block that rank 0 has for rank 2, by way of rank 1
    h3 -> r1         the word that rank 3 has come
    .                nothing is sent in this step

The pictures in the docstrings of this folder are these, and a test holds them to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from parallel_core.collectives.script import step_of
from parallel_core.program import Op, Program, Value


def picture(program: Program, head: str = "") -> str:
    """The table of a collective's program; `head` stands in its corner, `n=4` by default."""
    sends: dict[tuple[int, int], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, _, instr in program:
        if instr.op == Op.SEND and instr.peer is not None:
            sends[rank, step_of(instr)][_chunks(instr.reads)].append(instr.peer)
    steps = 1 + max(step for _, step in sends)
    rows = [[head or f"n={program.mesh.size}", *(f"step {step}" for step in range(steps))]]
    for rank in range(program.mesh.size):
        rows.append([f"r{rank}", *(_cell(sends.get((rank, step), {})) for step in range(steps))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _cell(messages: dict[str, list[int]]) -> str:
    told = [f"{what} -> {' '.join(f'r{peer}' for peer in to)}" for what, to in messages.items()]
    return "; ".join(told) or "."


def _chunks(values: Iterable[Value]) -> str:
    """`c0-2,5` for chunks 0, 1, 2 and 5; blocks and words one by one."""
    names = list(values)
    if names[0].name == "block":
        return ",".join(f"b{value.at[0]}.{value.at[1]}" for value in names)
    letter = "h" if names[0].name == "here" else "c"
    runs: list[list[int]] = []
    for c in sorted(value.at[0] for value in names):
        if runs and c == runs[-1][-1] + 1:
            runs[-1].append(c)
        else:
            runs.append([c])
    return letter + ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
