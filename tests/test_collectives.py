"""Every algorithm of the table does what its op promises: proved on names, and on numbers."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections import Counter, defaultdict, deque
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from collective_groups import TABLE, groups, shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_core.check import check
from parallel_core.collectives import (
    ALGORITHMS,
    TRANSPOSE,
    CollectiveError,
    Group,
    build,
    double_tree,
)
from parallel_core.collectives.formulas import FORMULAS
from parallel_core.collectives.names import chunk_sizes, chunks
from parallel_core.collectives.picture import picture
from parallel_core.collectives.promise import layouts, promise
from parallel_core.collectives.proof import prove_collective
from parallel_core.collectives.script import step_of
from parallel_core.mesh import Mesh
from parallel_core.program import Instr, Lane, Op, Program, ProgramError, Value
from parallel_core.simulate import run_order
from parallel_core.terms import carry

each = pytest.mark.parametrize(("op", "name"), TABLE)


def run(program: Program, values: list[dict[Value, np.ndarray]]) -> list[dict[Value, np.ndarray]]:
    """The program on numbers, in one process: what every value of every rank was."""
    wires: dict[tuple[int, int], deque] = defaultdict(deque)
    for together in run_order(program, rendezvous=True):
        for rank, index in together:  # a send stands before its receive
            instr, have = program.ranks[rank][index], values[rank]
            if instr.op == Op.SEND:
                wires[rank, instr.peer].append([have[x] for x in instr.reads])
            elif instr.op == Op.RECV:
                have.update(zip(instr.writes, wires[instr.peer, rank].popleft(), strict=True))
            elif instr.op == Op.ADD:
                row = len(instr.writes)
                for place, value in enumerate(instr.writes):
                    first, *rest = (have[x] for x in instr.reads[place::row])
                    have[value] = sum(rest, start=first)
    return values


@each
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_every_program_is_legal_and_keeps_its_promise(op, name, data):
    """Any n, root, node and segments: no leak, no deadlock, each promised term exactly once."""
    group = data.draw(groups(op, name))
    program = build(op, name, group)
    check(program)  # with sends that wait for their receives
    run_order(program, rendezvous=False)
    terms = sum(len(t) for ends in promise(op, group, chunks(program)).ends for t in ends.values())
    assert prove_collective(op, program, root=group.root) == terms > 0


@each
def test_its_text_reads_back_and_its_ports_are_two(op, name):
    """Sends leave by one port, receives come by another, additions compute."""
    program = build(op, name, Group(8))
    assert Program.parse(str(program)) == program
    lanes = {Op.SEND: Lane.OUT, Op.RECV: Lane.IN, Op.ADD: Lane.COMPUTE, Op.WAIT: Lane.OUT}
    assert all(instr.lane == lanes[instr.op] for _, _, instr in program)


@each
def test_the_picture_and_the_layout_in_its_docstring_are_true(op, name):
    """The layout line of its op, its time by formula, who sends which chunk to whom, by step."""
    builder = ALGORITHMS[op][name]
    text = inspect.cleandoc(builder.__doc__) + "\n"
    assert text.startswith(layouts()[op] + ".  ")
    assert f"Time {FORMULAS[op][name].text}." in " ".join(text.split())
    drawn = re.search(r"^ {4}((?:\w+=\d+ )*\w+=\d+) +step 0.*\n(?: {4}r\d.*\n)+", text, re.M)
    chosen = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", drawn[1])}
    shown = "\n".join(line.removeprefix(" " * 4) for line in drawn[0].rstrip().splitlines())
    assert shown == picture(builder(Group(**chosen)), drawn[1])


def test_a_picture_changes_with_its_program():
    """One chunk more, or another order, and it is another picture."""
    drawn = {picture(build(op, name, Group(8)), op) for op, name in TABLE}
    assert len(drawn) == len(TABLE)


@each
@given(data=st.data(), elements=st.integers(0, 40), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_on_numbers_every_rank_ends_with_the_same_bits(op, name, data, elements, seed):
    """float32, sizes that do not divide: a plain sum to rounding, the same on all ranks."""
    group = data.draw(groups(op, name, 9))
    program = build(op, name, group)
    word = promise(op, group, chunks(program))
    sizes = chunk_sizes(elements, chunks(program))
    rng = np.random.default_rng(seed)
    start = [
        {x: rng.standard_normal(sizes[x.at[0]]).astype(np.float32) for x in held}
        for held in word.holds
    ]
    inputs = {
        (x.name, rank, x.at[0]): data for rank, held in enumerate(start) for x, data in held.items()
    }
    ended = run(program, [dict(held) for held in start])
    outputs = defaultdict(set)
    for rank, ends in enumerate(word.ends):
        for value, terms in ends.items():
            wanted = np.sum([inputs[t].astype(np.float64) for t in terms], axis=0)
            np.testing.assert_allclose(ended[rank][value], wanted, rtol=1e-5, atol=1e-5)
            outputs[value].add(ended[rank][value].tobytes())
    assert all(len(bits) == 1 for bits in outputs.values())


@given(st.integers(0, 1000), st.integers(1, 40))
def test_chunks_differ_by_at_most_one_element_and_lose_none(total, n):
    sizes = chunk_sizes(total, n)
    assert sum(sizes) == total and len(sizes) == n and max(sizes) - min(sizes) <= 1


@each
def test_steps_are_honest(op, name):
    """A message needs those of earlier steps alone; of powers of two, no step can be left out.

    But where steps are a port's turns: pairwise messages need nothing, a double tree's wait for
    their turn. (So does the second message of a root among three.)
    """
    for n, node in shapes(op, name, 9):
        depth, steps = chain(build(op, name, Group(n, node=node)))
        assert depth <= steps
        if n in (2, 4, 8) and name not in ("pairwise", "double_tree"):
            assert depth == steps


def chain(program: Program) -> tuple[int, int]:
    """The longest chain of messages that need each other, and how many steps there are."""
    depth: list[dict[Value, int]] = [dict.fromkeys(held, 0) for held in program.holds]
    wires: dict[tuple[int, int], deque] = defaultdict(deque)
    steps = 0
    for together in run_order(program, rendezvous=True):
        for rank, index in together:
            instr = program.ranks[rank][index]
            steps = max(steps, step_of(instr) + 1)
            needs = max((depth[rank][x] for x in instr.reads), default=0)
            if instr.op == Op.SEND:
                assert needs <= step_of(instr)
                wires[rank, instr.peer].append(needs + 1)
            elif instr.op == Op.RECV:
                needs = wires[instr.peer, rank].popleft()
            depth[rank].update(dict.fromkeys(instr.writes, needs))
    return max(max(rank.values()) for rank in depth), steps


@pytest.mark.parametrize("m", range(2, 34))
def test_who_leads_in_one_tree_is_a_leaf_in_the_other(m):
    """All but one rank of an odd number (Sanders et al.); both trees reach every node once."""
    leads = []
    for tree in double_tree.trees(m):
        assert len(tree) == m - 1 and set(tree) < set(range(m))
        assert max(Counter(tree.values()).values()) <= 2
        leads.append(set(tree.values()))
    assert len(leads[0] & leads[1]) <= m % 2


@pytest.mark.parametrize("n", range(2, 34))
def test_in_a_double_tree_a_port_has_one_message_a_step(n):
    """Edges take turns, so segments follow each other: 2 (levels + segments) steps at most."""
    for segments in (1, 5):
        group = Group(n, segments=segments)
        for op, ways in (("broadcast", 1), ("all_reduce", 2)):
            program = build(op, "double_tree", group)
            busy = Counter((rank, i.lane, i.where) for rank, _, i in program if i.op.is_p2p)
            assert set(busy.values()) == {1}
            steps = 1 + max(step_of(i) for _, _, i in program)
            assert steps <= ways * 2 * (group.levels + segments)


@pytest.mark.parametrize("op", TRANSPOSE)
@pytest.mark.parametrize("n", [2, 4, 6])
def test_the_backward_of_a_collective_is_its_transpose(op, n):
    """<y, M x> = <M' y, x> on random integers, for all algorithms of both: M' is the backward."""
    rng = np.random.default_rng(n)
    forward = [f for f in (made(op, a, n) for a in ALGORITHMS[op]) if f]
    backward = [f for f in (made(TRANSPOSE[op], a, n) for a in ALGORITHMS[TRANSPOSE[op]]) if f]
    assert forward and backward
    flips = op == "send_recv"  # goes back the other way: ranks in the mirror
    for ahead in forward:
        for back in backward:
            x, mx = mapped(op, ahead, rng, flip=False)
            y, my = mapped(TRANSPOSE[op], back, rng, flip=flips)
            assert set(mx) == set(y) and set(my) == set(x)
            assert sum(y[at] * mx[at] for at in mx) == sum(my[at] * x[at] for at in x)


def made(op: str, name: str, n: int) -> Program | None:
    try:
        return build(op, name, Group(n, root=n // 2))
    except CollectiveError:
        return None


def mapped(op: str, program: Program, rng: np.random.Generator, *, flip: bool) -> tuple:
    """Random inputs and what became of them, by (rank, global index of three elements a rank)."""
    n, elements = program.mesh.size, 12
    word = promise(op, Group(n, root=n // 2), chunks(program))
    sizes = chunk_sizes(elements, chunks(program))
    starts = np.concatenate([[0], np.cumsum(sizes)])

    def places(rank: int, value: Value, out: bool) -> list[tuple[int, int, int]]:
        seat = n - 1 - rank if flip else rank
        if value.name == "block":  # the other rank of the exchange, and where in its block
            other = value.at[1] if out else value.at[0]
            return [(seat, other, i) for i in range(1)]
        first = starts[value.at[0]]
        return [(seat, 0, first + i) for i in range(sizes[value.at[0]])]

    drawn, held = {}, []
    for rank, values in enumerate(word.holds):
        held.append({})
        for value in values:
            at = places(rank, value, out=False)
            held[rank][value] = rng.integers(-9, 10, len(at))
            drawn |= dict(zip(at, held[rank][value].tolist(), strict=True))
    ended = run(program, held)
    came = {}
    for rank, ends in enumerate(word.ends):
        for value in ends:
            at = places(rank, value, out=True)
            came |= dict(zip(at, ended[rank][value].tolist(), strict=True))
    return drawn, came


def edited(program: Program, rank: int, index: int, **new: object) -> Program:
    ranks = [list(instrs) for instrs in program.ranks]
    ranks[rank][index] = replace(ranks[rank][index], **new)
    return replace(program, ranks=tuple(map(tuple, ranks)))


def rows(instr: Instr) -> list[tuple[Value, ...]]:
    wide = len(instr.writes)
    return [instr.reads[i : i + wide] for i in range(0, len(instr.reads), wide)]


@each
def test_an_addition_forgotten_or_done_twice_turns_the_proof_red(op, name):
    """Of every ADD in turn one operand is left out, then taken in twice."""
    program = build(op, name, Group(4))
    for rank, index, instr in program:
        if instr.op != Op.ADD:
            continue
        *others, last = rows(instr)
        without = tuple(x for row in others for x in row)
        with pytest.raises(CollectiveError, match="0 times; once is right"):
            prove_collective(op, edited(program, rank, index, reads=without))
        with pytest.raises(CollectiveError, match="2 times; once is right"):
            prove_collective(op, edited(program, rank, index, reads=instr.reads + last))


@each
def test_a_chunk_sent_in_place_of_another_turns_the_proof_red(op, name):
    """Wherever a rank sends twice, the two payloads change places: wrong chunk, or wrong peer."""
    program = build(op, name, Group(4))
    swapped = 0
    for rank, instrs in enumerate(program.ranks):
        sends = [(i, s) for i, s in enumerate(instrs) if s.op == Op.SEND]
        for (i, a), (j, b) in pairwise(sends):
            held = set(program.holds[rank])
            if len(a.reads) != len(b.reads) or {*a.reads} == {*b.reads}:
                continue
            if not held.issuperset((*a.reads, *b.reads)):
                continue  # a sum that is not there yet: a deadlock, which check names
            wrong = edited(edited(program, rank, i, reads=b.reads), rank, j, reads=a.reads)
            with pytest.raises(CollectiveError, match=r"times; (once is right|it has no place)"):
                prove_collective(op, wrong)
            swapped += 1
    several = {("scatter", "naive"), ("all_to_all", "direct"), ("all_reduce", "two_shot")}
    assert swapped or (op, name) not in several


def test_a_promise_to_another_root_is_not_kept():
    """A gather to rank 0 is no gather to rank 1; extra or missing values are named as well."""
    program = build("gather", "tree", Group(4))
    with pytest.raises(CollectiveError, match=r"rank 0 keeps x\[1\], but the op does not say so"):
        prove_collective("gather", program, root=1)
    less = replace(program, keeps=((), *program.keeps[1:]))
    with pytest.raises(CollectiveError, match=r"rank 0 keeps x\[0\], as the op says it must, not"):
        prove_collective("gather", less)


def test_a_message_that_never_comes_is_a_sentence():
    """A value that no message brings; a send and its receive that disagree on how many."""
    ring = build("all_gather", "ring", Group(2))
    ranks = (ring.ranks[0][:1], ring.ranks[1][1:])  # only 0 sends
    with pytest.raises(CollectiveError, match=r"rank 0 ends without x\[1\]"):
        prove_collective("all_gather", replace(ring, ranks=ranks))
    more = edited(ring, 1, 1, writes=(Value("x", (0,)), Value("x", (7,))))
    with pytest.raises(ProgramError, match=r"rank 1 .* takes 2 values from rank 0, which sent 1"):
        prove_collective("all_gather", more)


REFUSED = [
    (lambda: Group(1), "n=1 ranks have nobody to talk to; 2 is the fewest"),
    (lambda: Group(4, root=4), r"root=4 is no rank; choose one of 0\.\.3"),
    (lambda: Group(4, segments=0), "segments=0 must be at least 1"),
    (
        lambda: build("reduce_scatter", "halving", Group(6)),
        "recursive halving .* power of two; n=6 is none, 4 and 8 are the nearest",
    ),
    (
        lambda: build("all_reduce", "hierarchical", Group(9, node=4)),
        "two-level all-reduce .* n=9 ranks make none of node=4; n=8 or 12 would",
    ),
    (lambda: build("all_reduce", "hierarchical", Group(4, node=1)), "at least 2 ranks a node"),
    (lambda: build("all_reduce", "hierarchical", Group(4, node=4)), "n=8 would"),
    (lambda: build("allreduce", "ring", Group(4)), "the closest is 'all_reduce'"),
    (lambda: build("all_reduce", "rign", Group(4)), "the closest is 'ring', and there are naive"),
    (lambda: promise("sum", Group(2), 1), "'sum' is no collective; choose one of broadcast"),
]


@pytest.mark.parametrize(("attempt", "words"), REFUSED)
def test_what_cannot_be_built_is_told_why(attempt, words):
    """The algorithm, the n, the rule, and the nearest that would do."""
    with pytest.raises(ValueError, match=words):
        attempt()


def lone(op: Op, reads: list[list[str]], writes: list[list[str]]) -> Program:
    """One collective as one instruction."""
    names = lambda words: tuple(Value.parse(word) for word in words)  # noqa: E731  (twice, short)
    ranks = tuple(
        (Instr(op=op, where="it", axis="r", lane=Lane.COMM, reads=names(a), writes=names(b)),)
        for a, b in zip(reads, writes, strict=True)
    )
    empty = ((),) * len(ranks)
    return Program(Mesh((("r", len(ranks)),)), ranks, tuple(map(names, reads)), empty)


LONE = [
    (Op.ALL_REDUCE, [["a"]] * 2, [["s"]] * 2, ["s: 0 1", "s: 0 1"]),
    (Op.REDUCE_SCATTER, [["a", "b"]] * 2, [["s"]] * 2, ["s: 0 1", "s: 10 11"]),
    (Op.ALL_GATHER, [["a"]] * 2, [["g[0]", "g[1]"]] * 2, ["g[0]: 0 g[1]: 1"] * 2),
    (Op.ALL_TO_ALL, [["a", "b"]] * 2, [["g[0]", "g[1]"]] * 2,
     ["g[0]: 0 g[1]: 1", "g[0]: 10 g[1]: 11"]),
    (Op.BROADCAST, [["a"], []], [["c"]] * 2, ["c: 0", "c: 0"]),
]  # fmt: skip


@pytest.mark.parametrize(("op", "reads", "writes", "ends"), LONE, ids=lambda x: str(x))
def test_terms_pass_through_a_collective_instruction(op, reads, writes, ends):
    """Sums add, gathers copy each piece: term 10 p + r is the p-th thing that rank r reads."""
    program = lone(op, reads, writes)
    start = [
        {x: _one(10 * place + rank) for place, x in enumerate(held)}
        for rank, held in enumerate(program.holds)
    ]
    bags = carry(program, start)
    for rank, told in enumerate(ends):
        values = program.ranks[rank][0].writes
        shown = " ".join(
            f"{x}: {' '.join(str(t[2]) for t in sorted(bags[rank][x]))}" for x in values
        )
        assert shown == told


def test_pieces_without_a_name_cannot_be_followed():
    """A gather of two shards into one name would hide which shard lacks a term."""
    program = lone(Op.ALL_GATHER, [["a"]] * 2, [["g"]] * 2)
    with pytest.raises(ProgramError, match="give every piece a name of its own"):
        carry(program, [{Value("a"): _one(r)} for r in range(2)])
    assert carry(program, [{}, {}]) == [{}, {}]  # nothing to follow, nothing to refuse


def _one(which: int):
    return Counter([("t", 0, which)])


def test_nothing_here_loads_torch():
    """Programs, proofs, pictures and costs are for pages that only predict."""
    names = ("proof", "picture", "costs", "clock", "ramp", "quoted")
    modules = ", ".join(f"parallel_core.collectives.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
