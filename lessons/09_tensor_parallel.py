# %% [markdown]
# # 9 · Tensor parallel: cut the matrices
#
# Data parallelism needs a batch to cut, a pipeline needs layers. What if one *layer* is too much for one GPU, or one sequence is the
# whole batch? Then cut the matrices: every rank computes a part of every product, for every token. The work, the weights, the
# gradients and the optimizer's state of a layer are divided. The price is paid in every layer, while everybody waits: what the ranks
# made are parts, and parts must be put together.
#
# In 25 minutes you will see where the one necessary sum stands and what happens if it stands one step too late, count the messages of
# a real model on your own run, make room with sequence parallelism, hide a message under a product, and learn why this axis stays
# within a node. The page *Tensor loom* of the app (`shardlab app`) lets you pick any cell of any matrix.

# %%
import inspect

from IPython.display import HTML, display

from parallel_core.cases import program_of
from parallel_core.cost import Link, wire_bytes
from parallel_core.hardware.links import WIRES
from parallel_core.ledger import predicted_counts, wire
from parallel_core.live import on_one_link, pool, run
from parallel_core.loom.by_hand import alone, inputs
from parallel_core.loom.layout import Layout, nonlinear
from parallel_core.loom.report import follow
from parallel_core.loom.request import LoomRequest
from parallel_core.loom.weave import Kind
from parallel_core.loom.words import edges, reads_as
from parallel_core.plan import Plan
from parallel_core.program import Op, ProgramError
from parallel_core.published import table
from parallel_core.replay import model_cost
from parallel_core.simulate import simulate
from parallel_core.sizes import value_bytes
from parallel_core.tensor.block import TensorLayer
from parallel_core.views.loom import Cloth, arithmetic, steps
from parallel_core.views.marks import typical_step

# %% [markdown]
# ## Predict: how often must they meet?
#
# An MLP is $Z = \mathrm{act}(XA)\,B$. Cut $A$ by **columns** and $B$ by **rows**, or the other way round: how many messages does its
# forward need?
#
# A model has an embedding, 4 layers (attention and MLP), a head and the loss, cut over two ranks. How often do the two meet in a
# forward and backward? *Sequence parallelism* also cuts what lies between the matrices, by tokens: how many times the bytes does its
# forward send? And two nodes of eight GPUs, NVLink inside, one InfiniBand port between: how many times as fast is a layer on 16 GPUs
# as on the 8 of one node?

# %%
my_guess_messages = {"column-row": 2, "row-column": 2}  # change me: messages in the MLP's forward
my_guess_meetings = 8  # change me: messages of 4 layers and what is around them, both ways
my_guess_sp = 0.5  # change me: bytes sent forward, with sequence parallelism to without
my_guess_16 = 1.8  # change me: how many times as fast on 16 GPUs as on 8

# %% [markdown]
# ## Run: one product after another, on two processes
#
# Small whole numbers, real ranks. `H[n,m/tp]` is cut by columns, a block a rank; `Z[n,d]+tp` is a **part of a sum** on every rank, of
# the full size and wrong as it stands. Follow one cell from the top to the bottom (and open *row-column*). The third figure,
# `late-sum`, is row-column with the sum moved to after the nonlinearity: it sends as much, and what comes out wrong is underlined.

# %%
looms = {}
for layout in ("column-row", "row-column", "late-sum"):  # change me: column, row; ranks, act="gelu"
    asked = LoomRequest(layout=layout, ranks=2, n=2, k=4, m=4, backward=layout == "column-row")
    report, _, numbers = follow(asked, pool())
    truth = alone(inputs(asked.weave, asked.sizes), asked.act)  # in one process, by hand
    cloth = Cloth(weave=asked.weave, sizes=asked.sizes, act=asked.act, held=numbers, truth=truth)
    looms[layout] = (report, cloth)
    title = f"<summary>{layout}, messages forward: {report['messages']['measured'][0]}</summary>"
    shut = "" if layout == "row-column" else " open"
    display(HTML(f"<details{shut}>{title}{steps(cloth)}</details>"))
print(f"You said {my_guess_messages}: 1 and 2.")
back = steps(looms["column-row"][1], backward=True)
display(HTML(f"<details open><summary>column-row, the way back</summary>{back}</details>"))
print(inspect.getsource(TensorLayer.forward))

# %%
# NBVAL_CHECK_OUTPUT
for layout, (report, cloth) in looms.items():
    print(f"{layout}: off by {report['max_abs_error']:g} from one process")
    for step in cloth.weave.steps[: cloth.weave.turn]:
        if step.kind in (Kind.MOVE, Kind.ACT):
            print(f"   {reads_as(cloth.weave, step):38}", "; ".join(arithmetic(cloth, step)))
print("refused before it ran:", looms["late-sum"][0]["refused"])
try:
    nonlinear(Layout("H", ("n", "m"), partial=True), "U")
except ProgramError as error:
    print("the rule:", error)
for sequence in (False, True):
    for edge in edges("column-row", 2, sequence=sequence):
        print(f"{edge.letter:2} {edge.what}: {edge.forward} | back: {edge.backward}")

# %% [markdown]
# ## Explain: column, then row; f, then g
#
# A product sums over its inner dim. Cut *that* on both sides, and every rank adds up its own share: parts of a sum. Cut an outer dim,
# and every rank has columns of the true result. A nonlinearity takes columns as they come, one element at a time; of parts it makes
# nonsense, since $\mathrm{act}(a+b)\ne\mathrm{act}(a)+\mathrm{act}(b)$. So *row first* must sum before it, and has columns to gather
# at the end. **Column first** hands its columns through the nonlinearity to just those rows of $B$ that wait for them: one sum, at
# the end ([`layout.py`](../parallel_core/loom/layout.py) has the rules, [`linear.py`](../parallel_core/tensor/linear.py) the layers).
# Attention is the same pattern: $q$, $k$, $v$ by columns are whole heads, which need nobody; the output matrix is cut by rows.
#
# Two edges remain. Where $x$ enters, **f**: nothing forward; but each rank's columns make only a part of $dX$, so backward a sum.
# Where $z$ leaves, **g**: a sum forward, and *nothing* backward. Why not a sum? The loss behind $z$ is one loss that every rank
# computes: its gradient is whole already, and summed it would be $t$ times too large. That makes **2 all-reduces forward and 2
# backward a layer**: `enter` and `leave` in the source above are f and g ([`conjugate.py`](../parallel_core/tensor/conjugate.py)).
#
# Now a whole model, on real text: plain, with sequence parallelism, and on four ranks with two key/value heads.

# %%
each = {"layers": 4, "steps": 3}
plain, cut = run(tp=2, **each), run(tp=2, sp=True, **each)
shared = run(tp=4, kv_heads=2, layers=2, steps=2)
display(plain)


def inner(done, op=""):
    """What rank 0 sends inside the tasks of a step: (task, op, what it carries, bytes)."""
    tasks = [span for span in done.trace.only(1).by_rank[0] if span.op.startswith(op)]
    return [(f"{s.op} {s.where}", *(m[0], m[2], m[3])) for s in tasks for m in s.inside]


def leaves(messages, t):
    """Bytes of such messages that leave one rank of t."""
    return sum(wire_bytes(Op(op), size, t) // t for _, op, _, size in messages)


print(f"You said {my_guess_meetings} messages a step: {len(inner(plain))}.")
ratio = leaves(inner(cut, "F"), 2) / leaves(inner(plain, "F"), 2)
print(f"You said {my_guess_sp} times the bytes forward: {ratio:.3f}.")
print("\n".join(map(str, (plain, cut, shared))))

# %%
# NBVAL_CHECK_OUTPUT
assert max(plain.parity, cut.parity, shared.parity) < 1e-5, "not the gradients of one process"
for task in ("F embed", "F layer2", "F head", "B head", "B layer2", "B embed"):
    found = [f"{op} {size:,}" for name, op, _, size in inner(plain) if name == task]
    print(f"{task:9}", ", ".join(found) or "nothing")
blocks = [message for message in inner(plain) if "layer" in message[0]]
print(f"{len(blocks)} = 4 x 4 in the layers, {len(inner(plain)) - len(blocks)} beside them")
b, s, h = plain.plan.global_batch, plain.plan.seq, plain.plan.model.hidden
print(f"a layer sends {leaves(blocks, 2) // 4:,} bytes a rank; 8bsh(t-1)/t elements of 4 bytes are",
      f"{8 * b * s * h * 1 // 2 * 4:,}")  # fmt: skip
large = {"b": 1, "s": 4096, "V": 128256, "t": 8}
one = large["b"] * large["s"]
three = 3 * wire_bytes(Op.ALL_REDUCE, one * 4, 8) // 8
gathered = wire_bytes(Op.ALL_GATHER, one * large["V"] // 8 * 2, 8) // 8
print(f"the loss of {one} tokens, {large['V']:,} words, 8 ranks: {three / 1e3:.0f} kB a rank, where"
      f" gathering bf16 logits sends {gathered / 1e6:.0f} MB and leaves"
      f" {one * large['V'] * 2 / 1e9:.2f} GB on each")  # fmt: skip
for kv in (4, 2, 1):
    few = Plan.of(tp=4, heads=4, kv_heads=kv)
    print(f"4 heads, {kv} kv heads, 4 ranks: {few.kv_here} kv head a rank,"
          f" held by {few.kv_copies}; mesh {few.mesh.names}")  # fmt: skip
copies = shared.report["ledger"]["wire"]["measured"]["kv_copy"]["all_reduce"]
print("their gradients, summed over each head's copies:", copies["messages"], "in 2 steps")

# %% [markdown]
# ## Explain: five messages that are in no layer
#
# **The embedding**: each rank has a share of the words, looks up those and takes zero for the others; one sum. **The head**: it is a
# column-parallel product, so it has an f: nothing forward, one sum backward. **The loss**: the logits of a token lie on all ranks.
# Gathering them would be by far the largest message of the step. But a softmax needs only three numbers a token from the others: the
# largest logit, the target's logit, and the sum of exponentials; its gradient, softmax minus one-hot, needs none
# ([`cross_entropy.py`](../parallel_core/tensor/cross_entropy.py)). In all $4L + 1 + 3 + 1$
# (two numbers for the report, loss and norm, are summed once a step besides).
#
# **Fewer key/value heads than ranks** (grouped-query attention): a head cannot be halved, so ranks hold *copies* of one. Each copy
# sees the queries of its own rank only; its gradient is a part, and once a step the copies' parts are summed. Without that sum the
# copies would drift apart, and no rank would complain; only the comparison with one process tells.
#
# What is *not* divided: every rank keeps the whole $x$ between the matrices, for norms, dropout and the residual, $t$ times the
# same. **Sequence parallelism** cuts that by tokens. Then f gathers (f') and g scatters its sum (g'):

# %%
# NBVAL_CHECK_OUTPUT
for where in ("F layer2", "B layer2"):
    found = [f"{op} {size:,}" + " (again)" * ("again" in carries)
             for name, op, carries, size in inner(cut) if name == where]  # fmt: skip
    print(f"{where}:", ", ".join(found))
forward, backward = (
    leaves(inner(cut, way), 2) / leaves(inner(plain, way), 2) for way in ("F", "B")
)
print(f"bytes, with sp to without: forward {forward:.3f}, backward {backward:.3f}")
kept = [done.report["ledger"]["activations"]["measured"]["layer2"] for done in (plain, cut)]
print(f"a layer keeps {kept[0]:,} bytes for its backward, with sp {kept[1]:,}")
norms = [span.bytes for span in cut.trace.only(1).by_rank[0] if span.where == "whole"]
print(f"and the norms' gradients, parts now, are summed once a step: {norms[0]:,} bytes")
apart = max(abs(x - y) for x, y in zip(plain.losses, cut.losses, strict=True))
print("the losses agree to 1e-5:", apart < 1e-5)

# %% [markdown]
# ## Explain: the same bytes, and then a choice
#
# An all-reduce *is* a reduce-scatter and an all-gather (lesson 3). Sequence parallelism only moves the two apart, and lets norms and
# dropout work on a share of the tokens in between. So the forward sends **exactly** the same, and what lies outside the matrices
# shrinks by $t$. The backward sends half as much again: keeping the gathered input would undo the saving, so the shard is kept and
# gathered once more, `again`, twice a layer. That is a price in bytes, not always in time, since a gather for the *weight* gradient
# has work beside it to hide under.
#
# Which is the next idea. A product can begin with the tokens that are there: while the rank's own tile is multiplied, the next one
# arrives. In the backward, `again` travels under the product for $dX$, and the scatter of $dX$ under the one for $dW$
# ([`overlap.py`](../parallel_core/tensor/overlap.py)). The same messages, the same bytes; is it worth it? Here the wire is your
# machine's memory, and sending costs the very cores that multiply. So besides the wall clock, look at the *replay*: every rank on a
# device of its own, both runs over one link; first the one fitted to your runs, then three made-up ones, fast to slow.

# %%
work = {"tp": 2, "sp": True, "layers": 2, "hidden": 256, "heads": 8, "steps": 4, "parity": False}
pair = on_one_link([run(**work, overlap_tp=overlap) for overlap in (False, True)])
links = [pair[0].link, *(Link(1e-4, rate) for rate in (4e9, 4e8, 4e7))]


def step_ms(trace):
    """The step of median duration."""
    return trace.only(typical_step(trace)).makespan / 1e6


walls = [step_ms(done.trace) for done in pair]
print(f"wall clock: {walls[0]:.0f} ms, with overlap {walls[1]:.0f} ms")
for at, link in enumerate(links):
    first, second = (step_ms(done.view.own_device(link)) for done in pair)
    named = "fitted to your runs" if at == 0 else "made up"
    print(f"replayed, {named} ({link}): {first:.0f} ms, with overlap {second:.0f} ms,"
          f" {second / first - 1:+.0%}")  # fmt: skip
assert all(abs(x - y) < 1e-3 for x, y in zip(pair[0].losses, pair[1].losses, strict=True))


def layer_ms(plan, link):
    """Forward and backward of one layer on one rank, and its messages: (ms, ms), modelled."""
    trace = simulate(program_of(plan), model_cost(plan, rate=4e14, link=WIRES[link].link))
    spans = [span for span in trace.by_rank[0] if span.where == "layer0" and span.op in "FB"]
    sent = sum(m[5] - m[4] for span in spans for m in span.inside)
    return sum(span.duration for span in spans) / 1e6, sent / 1e6


layer = Plan.of(layers=1, hidden=8192, heads=64, kv_heads=8, ffn=28672, vocab=32768, seq=4096,
                global_batch=1, dtype="bfloat16")  # fmt: skip
faster = layer_ms(layer.but(tp=8), "nvlink4")[0] / layer_ms(layer.but(tp=16), "infiniband-ndr")[0]
print(f"You said 16 GPUs are {my_guess_16} times as fast as 8; modelled, {faster:.2f} times.")

# %%
# NBVAL_CHECK_OUTPUT
print("One layer of a 70B model, 4096 tokens, 400 TFLOP/s a GPU, modelled: ms, of them messages")
print("   t      NVLink 4               InfiniBand NDR         with sp; and overlap, InfiniBand")
for t in (2, 4, 8, 16, 32, 64):
    row = [layer_ms(layer.but(tp=t), link) for link in ("nvlink4", "infiniband-ndr")]
    words = "".join(f"{ms:8.2f} {sent:6.2f} {sent / ms:4.0%}" for ms, sent in row)
    if t <= 16:
        both = [layer_ms(layer.but(tp=t, sp=True, overlap_tp=o), "infiniband-ndr") for o in (0, 1)]
        words += "".join(f"{ms:10.2f}" for ms, _ in both)
    print(f"  {t:2}{words}")
sweep = table("nanotron_tp_sweep")
three = Plan.of(layers=1, hidden=3072, heads=32, ffn=8192, vocab=131072, tied=True, seq=4096,
                sp=True, tp=2, dtype="bfloat16")  # fmt: skip
print("Tokens a second a GPU, 3.57B parameters, as shares of those at t = 2:")
rows = {
    "NVLink everywhere (a layer, modelled)": ["nvlink4"] * 5,
    "published (whole model, quoted)": None,
    "InfiniBand from 16 (a layer, modelled)": ["nvlink4"] * 3 + ["infiniband-ndr"] * 2,
}
for name, wires in rows.items():
    rate = list(sweep.column("tokens_per_s_gpu"))
    if wires:
        rate = [row["microbatch"] / row["tp"] / layer_ms(three.but(tp=row["tp"],
                global_batch=row["microbatch"]), link)[0]
                for row, link in zip(sweep.rows, wires, strict=True)]  # fmt: skip
    print(f"  {name:42}", "".join(f"{each / rate[0]:7.2f}" for each in rate))
print(f"  {'at t =':42}", "".join(f"{t:7}" for t in sweep.column("tp")))
print("quoted:", sweep.source)

# %% [markdown]
# ## Explain: tensor parallelism stays in the node
#
# **Twice the ranks, half the work, the same message.** An all-reduce of $bsh$ elements sends $2\frac{t-1}{t}$ of them from each rank:
# once on two GPUs, twice on 64. The work is divided by $t$, so the wire's share only grows, and at some $t$ more ranks buy nothing. A
# ring is as slow as its slowest wire: eight GPUs on NVLink beat sixteen with one InfiniBand port in the ring. The
# published runs, of a whole model, fall between our two from 16 on: a node has several ports, which as many rings can use at once.
# (Neither wires nor sequence length are stated there; up to 8 it is a little better than ours, which overlaps nothing.) Overlap helps
# most where message and product take about as long: on a fast wire there is little to hide, on a slow one little to hide under.
#
# **The classic number.** One microbatch of 4096 tokens, $h=8192$, bf16, is a message of 64 MiB. Over eight ranks each sends
# $2\cdot\frac78$ of that, four times a layer, in 80 layers. You will compute it. No axis so far waits as often: 320 times in one
# microbatch.
#
# ## Exercise
#
# Three formulas, held against the program and against *your* runs; and a layout for **4 ranks and one sequence**, so that data
# parallelism has nothing to cut: at most **3.5 MB** of training state and **3.5 MB** kept for the backward on each rank, and at most
# **1.3** times the bytes that plain tensor parallelism sends.


# %%
def messages(layers):
    """All-reduces of a step, by where they are: {"layers": ..., "embed": ..., "loss": ..., ...}."""
    raise NotImplementedError


def traffic(b, s, h, layers, t):
    """In bf16: bytes of a layer's message, bytes a rank sends for it, and in all layers' step."""
    raise NotImplementedError


def held(kv, t):
    """Key/value heads on each of t ranks, and how many ranks hold the same one."""
    raise NotImplementedError


def my_layout():
    """Fields for run(), as in {"tp": 2, "sp": True}."""
    raise NotImplementedError


# %% tags=["raises-exception"]
counted = messages(4)
assert set(counted) == {"layers", "embed", "loss", "head"}, f"four places, not {set(counted)}"
assert counted["layers"] == len(blocks), f"your run's layers sent {len(blocks)}"
assert counted["loss"] == sum(carries == "row[0]" for _, _, carries, _ in inner(plain))
for name in ("embed", "head"):
    seen = sum(name in task and carries != "row[0]" for task, _, carries, _ in inner(plain))
    assert counted[name] == seen, f"{name}: your run sent {seen}"
for layers in (1, 3, 80):
    rank = program_of(Plan.of(tp=2, layers=layers)).ranks[0]
    in_program = sum(len(instr.inner) for instr in rank)
    assert sum(messages(layers).values()) == in_program, f"{layers} layers send {in_program}"
seen = (blocks[0][3], leaves(blocks[:1], 2), leaves(blocks, 2))  # of your run, in float32
found = traffic(b, s, h, layers=4, t=2)
assert found == tuple(size // 2 for size in seen), f"{found}; your run, float32: {seen}, twice that"
size, sent, total = traffic(b=1, s=4096, h=8192, layers=80, t=8)
assert sent == wire_bytes(Op.ALL_REDUCE, size, 8) / 8, "cost.wire_bytes has it otherwise"
assert (size / 2**20, sent / 2**20, total / 2**30) == (64, 112, 35), "64 MiB, 112 MiB, 35 GiB"
step = [wire(predicted_counts(program_of(plan), value_bytes(plan), 1), plan.mesh.degree)
        for plan in (layer.but(tp=8, layers=n) for n in (81, 1))]  # fmt: skip
grown = [sums["tp"]["all_reduce"]["wire_bytes"] // 8 for sums in step]
assert total == grown[0] - grown[1], "80 layers of the program send something else"
for kv, t in ((8, 2), (8, 8), (8, 16), (1, 4), (2, 4)):
    few = Plan.of(heads=16, kv_heads=kv, tp=t)
    assert held(kv, t) == (few.kv_here, few.kv_copies), f"{kv} kv heads on {t} ranks"
given = {"layers": 4, "seq": 256, "global_batch": 1, "steps": 2, "quiet": True}
mine, usual = run(**{**my_layout(), **given}), run(tp=4, **given)
assert mine.plan.world_size == 4, f"{mine.plan.world_size} ranks, not 4"
assert mine.parity < 1e-5, f"{mine.parity} from one process"
state = mine.report["ledger"]["memory"]["peak_state_bytes"] / 1e6
keeps = sum(mine.report["ledger"]["activations"]["measured"].values()) / 1e6
times = mine.wire_bytes / usual.wire_bytes
assert state <= 3.5, f"{state:.2f} MB of state"
assert keeps <= 3.5, f"{keeps:.2f} MB are kept for the backward"
assert times <= 1.3, f"{times:.2f} times the bytes of plain tensor parallelism"
print(f"All true. {mine.plan.layout}: {state:.2f} MB, {keeps:.2f} MB, {times:.2f} times the bytes")


# %% tags=["solution"] jupyter={"source_hidden": true}
def messages(layers):
    """All-reduces of a step, by where they are: {"layers": ..., "embed": ..., "loss": ..., ...}."""
    return {"layers": 4 * layers, "embed": 1, "loss": 3, "head": 1}


def traffic(b, s, h, layers, t):
    """In bf16: bytes of a layer's message, bytes a rank sends for it, and in all layers' step."""
    size = 2 * b * s * h
    sent = 2 * (t - 1) * size / t
    return size, sent, 4 * layers * sent


def held(kv, t):
    """Key/value heads on each of t ranks, and how many ranks hold the same one."""
    return max(kv // t, 1), max(t // kv, 1)


def my_layout():
    """Cut the matrices for the state, the tokens between them for what is kept."""
    return {"tp": 4, "sp": True}


# %%
counted = messages(4)
assert set(counted) == {"layers", "embed", "loss", "head"}, f"four places, not {set(counted)}"
assert counted["layers"] == len(blocks), f"your run's layers sent {len(blocks)}"
assert counted["loss"] == sum(carries == "row[0]" for _, _, carries, _ in inner(plain))
for name in ("embed", "head"):
    seen = sum(name in task and carries != "row[0]" for task, _, carries, _ in inner(plain))
    assert counted[name] == seen, f"{name}: your run sent {seen}"
for layers in (1, 3, 80):
    rank = program_of(Plan.of(tp=2, layers=layers)).ranks[0]
    in_program = sum(len(instr.inner) for instr in rank)
    assert sum(messages(layers).values()) == in_program, f"{layers} layers send {in_program}"
seen = (blocks[0][3], leaves(blocks[:1], 2), leaves(blocks, 2))  # of your run, in float32
found = traffic(b, s, h, layers=4, t=2)
assert found == tuple(size // 2 for size in seen), f"{found}; your run, float32: {seen}, twice that"
size, sent, total = traffic(b=1, s=4096, h=8192, layers=80, t=8)
assert sent == wire_bytes(Op.ALL_REDUCE, size, 8) / 8, "cost.wire_bytes has it otherwise"
assert (size / 2**20, sent / 2**20, total / 2**30) == (64, 112, 35), "64 MiB, 112 MiB, 35 GiB"
step = [wire(predicted_counts(program_of(plan), value_bytes(plan), 1), plan.mesh.degree)
        for plan in (layer.but(tp=8, layers=n) for n in (81, 1))]  # fmt: skip
grown = [sums["tp"]["all_reduce"]["wire_bytes"] // 8 for sums in step]
assert total == grown[0] - grown[1], "80 layers of the program send something else"
for kv, t in ((8, 2), (8, 8), (8, 16), (1, 4), (2, 4)):
    few = Plan.of(heads=16, kv_heads=kv, tp=t)
    assert held(kv, t) == (few.kv_here, few.kv_copies), f"{kv} kv heads on {t} ranks"
given = {"layers": 4, "seq": 256, "global_batch": 1, "steps": 2, "quiet": True}
mine, usual = run(**{**my_layout(), **given}), run(tp=4, **given)
assert mine.plan.world_size == 4, f"{mine.plan.world_size} ranks, not 4"
assert mine.parity < 1e-5, f"{mine.parity} from one process"
state = mine.report["ledger"]["memory"]["peak_state_bytes"] / 1e6
keeps = sum(mine.report["ledger"]["activations"]["measured"].values()) / 1e6
times = mine.wire_bytes / usual.wire_bytes
assert state <= 3.5, f"{state:.2f} MB of state"
assert keeps <= 3.5, f"{keeps:.2f} MB are kept for the backward"
assert times <= 1.3, f"{times:.2f} times the bytes of plain tensor parallelism"
print(f"All true. {mine.plan.layout}: {state:.2f} MB, {keeps:.2f} MB, {times:.2f} times the bytes")
