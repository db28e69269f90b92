# %% [markdown]
# # 13 · N dimensions: which axis on which wire
#
# Data, tensor, pipeline: each of them cuts a training step, and they go together as factors do. Sixteen ranks can be
# 2 x 2 x 4: a **mesh**, with an axis for each way of cutting, a coordinate for each rank, and a group of ranks for each line along an
# axis. Whatever the product, the gradients must be those of one process. What the product does change is who talks to whom, how
# much, and over which wire.
#
# In 25 minutes you will find a rank's place and its groups, count on your own runs what every axis sends, put the axes on the wires of
# a cluster, see where a layout first departs from one process and what must be summed once, and read a table of layouts with its MFU.
# The page *Mesh and parity* of the app (`shardlab app`) turns the cube; lesson 13b keeps the bugs.
#
# ## Predict
#
# Ranks are numbered like digits: the innermost axis turns fastest. With `tp=4` innermost, then `dp=2`, then `pp=2`: where is rank 13?
#
# A model of four layers, 64 wide, on `pp=2, dp=2, tp=2`. A step sends gradients over dp, activations inside the layers over tp, and
# activations between two layers over pp. Order the axes by bytes, most first: for a step of 128 tokens, and for one of 2,048.
#
# A model of 8 billion weights on 16 GPUs, 8 a node: 450 GB/s inside it, 50 GB/s between. There are six orders of the axes. How many
# times as long do messages take in the worst as in the best? And where all layers are computed twice, in how many per cent more FLOPs
# is a device busy than the model has?

# %%
import tempfile
from pathlib import Path

from IPython.display import HTML, display
from safetensors.torch import load_file

from parallel_core.cases import program_of
from parallel_core.choices import RANK_ORDERS
from parallel_core.compare import rounds
from parallel_core.compare.layouts import Turns, contenders
from parallel_core.compare.rate import mfu, model_flops, rate_here
from parallel_core.compare.table import table
from parallel_core.hardware.links import WIRES
from parallel_core.hf import from_hf
from parallel_core.ledger import held_elements, predicted_counts, wire
from parallel_core.live import pool, run
from parallel_core.mesh import Mesh
from parallel_core.museum.report import follow
from parallel_core.museum.request import Visit
from parallel_core.museum.words import divergence, wrong_tensors
from parallel_core.params import cuts, param_specs
from parallel_core.parity.matrix import parse
from parallel_core.parity.sweep import outcome
from parallel_core.pieces import copies_table
from parallel_core.plan import Plan
from parallel_core.program import Op
from parallel_core.sizes import step_flops, value_bytes
from parallel_core.views import compare_table, mesh_cube
from parallel_core.views.mesh_holds import holds, rows

my_guess_place = {"pp": 1, "dp": 0, "tp": 3}  # change me: of rank 13
my_guess_order = {128: ["tp", "dp", "pp"], 2048: ["tp", "dp", "pp"]}  # change me: most bytes first
my_guess_slower = 2  # change me: time on the wires, worst order of the axes to the best
my_guess_percent = 50  # change me: more FLOPs where layers are computed twice


def answer(what, guess, truth):
    """Your guess beside what came out."""
    print(f"{what}: you said {guess}, it is {truth}.", "Well seen." * (guess == truth))


# %% [markdown]
# ## Run: the mesh
#
# The cube: tp to the right, dp to the back, pp upwards. Colours are the groups of dp, `n0` to `n3` are nodes of four ranks. Lines join
# a group: dashed where they leave a node. Below, the same ranks with pp innermost. Nothing is sent yet: this is arithmetic.

# %%
big = Plan.of(pp=2, dp=2, tp=4, layers=32, hidden=4096, heads=32, kv_heads=8, vocab=128256, seq=8192,
              global_batch=16, microbatches=8, dtype="bfloat16")  # fmt: skip
for order in ("tp-cp-dp-pp", "pp-cp-dp-tp"):
    picture = mesh_cube.Cube(plan=big.but(rank_order=order), per_node=4, axis="dp", rank=13)
    display(HTML(mesh_cube.drawing(picture)))
    print(f"{order}. {mesh_cube.in_words(picture)}")
thirteen = big.mesh.coordinate(13)
answer("rank 13", my_guess_place, {axis: thirteen[axis] for axis in ("pp", "dp", "tp")})

# %%
# NBVAL_CHECK_OUTPUT
for order in ("tp-cp-dp-pp", "pp-cp-dp-tp"):
    mesh = big.but(rank_order=order).mesh
    at = ", ".join(f"{axis}={mesh.coordinate(13)[axis]}" for axis, _ in mesh.axes)
    print(f"{order}: rank 13 at {at} (inner to outer)")
    for axis in ("tp", "dp", "pp"):
        print(f"   groups of {axis}:", *(list(group) for group in mesh.groups(axis)))
eight = Plan.of(pp=2, dp=2, tp=2, microbatches=2, layers=4, hidden=64, heads=4, tied=True)
for rank in (0, 7):
    at = ", ".join(f"{axis}={eight.mesh.coordinate(rank)[axis]}" for axis, _ in eight.mesh.axes)
    print(f"pp=2, dp=2, tp=2: rank {rank}, at {at}, holds this and as much of the next layer")
    for row in rows(eight, rank):
        if row["parameter"].split(".")[0] not in ("layer1", "layer3"):
            print(f"   {row['parameter']:24}{row['whole']:>9} -> {row['here']:8} {row['part']}")

# %% [markdown]
# ## Explain: a product of axes
#
# A rank's number is its coordinate written with mixed digits: $r = i_{tp} + d_{tp}\,(i_{dp} + d_{dp}\,i_{pp})$. A **group** of an
# axis is what you get by turning that digit alone; its members are a *stride* apart, the product of all degrees inside of it. So the
# innermost axis has neighbours, and the outermost the ranks farthest apart. `--rank-order` turns the digits' places, and nothing else:
# no tensor is cut otherwise, no byte more is sent ([`mesh.py`](../parallel_core/mesh.py), twenty lines of division).
#
# And a rank holds a product as well: pp chooses its layers, tp its slice of each matrix; over dp all hold the same (ZeRO would cut that
# too). Two things are held more often than that: a norm is whole on every rank of tp, and a *tied* table is needed by both ends
# of the pipeline, as embedding and as head. Remember them.
#
# ## Run: what every axis sends
#
# Four runs in float64, each beside one process that trains the same model on the same text. First two axes at a time on four ranks,
# then all three on eight, with few tokens a step and with many.

# %%
files = tempfile.TemporaryDirectory()  # gone when the notebook ends
few = {"layers": 4, "hidden": 64, "heads": 4, "tied": True, "dtype": "float64", "seq": 16,
       "global_batch": 8, "microbatches": 2, "steps": 2, "quiet": True}  # fmt: skip
many = {**few, "seq": 128, "global_batch": 16}
cube = {"pp": 2, "dp": 2, "tp": 2}
runs = {
    "dp x tp": run(dp=2, tp=2, **few),
    "pp x dp": run(pp=2, dp=2, **few),
    "pp x dp x tp": run(**cube, **few, save_grads=str(Path(files.name) / "grads")),
    "the same, many tokens": run(**cube, **many),
}


def by_axis(side):
    """Bytes on the wire by axis, of one side of a ledger; messages to neighbours belong to pp."""
    return {
        "pp" if axis == "p2p" else axis: sum(row["wire_bytes"] for row in ops.values())
        for axis, ops in side.items()
    }


def sent(done):
    """Bytes a step by axis, over all ranks, as they were counted in a run."""
    counted = by_axis(done.report["ledger"]["wire"]["measured"])
    return {axis: size // len(done.report["steps"]) for axis, size in counted.items()}


ordered = {
    done.plan.tokens_per_step: sorted(sent(done), key=sent(done).get, reverse=True)
    for done in (runs["pp x dp x tp"], runs["the same, many tokens"])
}
for tokens, order in ordered.items():
    answer(f"most bytes first, {tokens:,} tokens a step", my_guess_order.get(tokens), order)

# %%
# NBVAL_CHECK_OUTPUT
print("bytes a step on the wire, all ranks: measured, and equal to the prediction")
for name, done in runs.items():
    wires = done.report["ledger"]["wire"]
    assert wires["measured"] == wires["predicted"], f"{name}: predicted is not measured"
    told = ", ".join(f"{axis} {size:,}" for axis, size in sorted(sent(done).items()))
    print(f"  {name:22}{done.plan.world_size} ranks, {done.plan.tokens_per_step:5,} tokens: {told}")
for done in runs.values():
    errors = done.report["parity"]["errors"]
    assert max(errors["gradients"], errors["loss"], errors["gradient norm"]) < 1e-12
print("gradients, loss and norm of all four are one process's to 1e-12")
last = runs["the same, many tokens"]
a_token = {axis: sent(last)[axis] / last.plan.tokens_per_step for axis in sent(last)}
print(f"tp sends more than dp from {sent(last)['dp'] / a_token['tp']:.0f} tokens a step on")

# %% [markdown]
# ## Explain: three axes, three things to count
#
# With $w$ bytes a number, $T$ tokens a step, width $h$, $L$ layers, and $2(n-1)$ times the payload on the wire for an all-reduce over
# $n$ ranks (lesson 4):
#
# - **dp** sends gradients, once a step: $2(d-1)\,w$ for each number that one replica holds, copies included. Tokens do not appear.
# - **tp** sends activations, $T\times h$ of them twice a layer forward and twice backward, once more for the cut embedding and once
#   for the head: $2(t-1)\,wT\,[(4L+2)h+3]$. The 3 are a token's maximum, sum and target in the loss. Nowhere is there a batch large
#   enough to make this small.
# - **pp** sends activations too, but at *boundaries*, not in layers: $2(p-1)\,wTh$ for each of the $t$ ranks of tp, who hand over the
#   same (with `sp` each would hand over its share). The two ends exchange the tied table besides.
#
# So tp grows as tokens times *layers*, pp as tokens, dp as weights. For a large model tp is far ahead: it belongs on the fastest
# wire there is. That is no law of the product. Nothing in the gradients knows which rank sits beside which.
#
# ## Run: six orders, two wires
#
# **Modelled**: 16 ranks, 8 a node, each message $\alpha+$ bytes$/\beta$ by the slowest wire of its group, from the plan's own
# program. No overlap is reckoned: what hides under work (dp can, tp hardly) costs less than it says.

# %%
# NBVAL_CHECK_OUTPUT
inside, between = WIRES["nvlink4"], WIRES["infiniband-ndr"]
print("inside a node:", inside)
print("between nodes:", between)


def on_wires(plan, per_node):
    """Seconds of messages a step on the rank that has most, by axis, under nothing."""
    counts = predicted_counts(program_of(plan), value_bytes(plan), 1)
    found = {}
    for name, op in sorted({key for rank in counts for key in rank} - {("p2p", "recv")}):
        axis = "pp" if name == "p2p" else name
        near = "inside" in mesh_cube.crossing(plan, axis, per_node)
        link, n = (inside if near else between).link, plan.mesh.degree(axis)
        each = [rank.get((name, op), (0, 0)) for rank in counts]
        slowest = max(k * link.seconds(Op(op), size / k, n) for k, size in each if k)
        found[axis] = found.get(axis, 0) + slowest
    return found


totals, carried = [], []
for order in RANK_ORDERS:
    plan = big.but(rank_order=order)
    ms = {axis: 1e3 * took for axis, took in on_wires(plan, 8).items()}
    totals.append(sum(ms.values()))
    counts = predicted_counts(program_of(plan), value_bytes(plan), 1)
    carried.append(by_axis(wire(counts, plan.mesh.degree)))
    near = [axis for axis in ("tp", "dp", "pp") if "inside" in mesh_cube.crossing(plan, axis, 8)]
    each = ", ".join(f"{axis} {ms[axis]:6.1f}" for axis in ("tp", "dp", "pp"))
    print(f"{order}: {' and '.join(near)} inside a node; ms {each}; in all {totals[-1]:6.1f}")
assert all(bytes_of == carried[0] for bytes_of in carried), "an order sends other bytes"
told = ", ".join(f"{axis} {size / 1e9:.1f} GB" for axis, size in sorted(carried[0].items()))
print("bytes a step, the same in all six:", told)
answer("the worst order to the best", my_guess_slower, round(max(totals) / min(totals), 1))

# %% [markdown]
# ## See: the product is the easy part
#
# The same sixteen devices, the same gradients, the same bytes, and the step waits several times as long, because the axis that sends
# most was put across nodes. **Which axis sits on which wire decides the run.** It is always tp that is put innermost, then cp. What comes
# last is a matter of what hides: Megatron-LM's default leaves pp outermost, as here; Llama 3 left dp there, whose gathers can
# be asked for early (Grattafiori et al. 2024, section 3.3.2). On *your* machine all ranks share one memory: no wire is slower than
# another, and you could turn the order without noticing. That is how a bad one survives until the cluster.
#
# ## Run: where a layout first departs
#
# "Equal to one process" is a claim about every tensor of every rank. When it fails, the first thing that is wrong is what matters.
# First a layout that is right, then three in float32, where nothing is wrong but rounding: each axis departs where it *sums*. Last a
# bug from the museum: two copies of the tied table are added when one is summed over dp and the other is not.

# %%
for text in ("pp=2,dp=2,tp=2", "tp=2,dtype=float32", "pp=2,dtype=float32", "dp=2,dtype=float32"):
    found = outcome(parse(text), pool())
    print(f"{text}: {found.state}, largest error {found.worst:.0e} {found.message}")
tied = follow(Visit(bug="tied-too-late", steps=1, optimizer="adamw"), pool())["optimizers"]["adamw"]
print("tied-too-late, planted:", divergence(tied))
for row in wrong_tensors(tied):
    print(f"   {row['name']}: off by {row['error']:.2f} of its largest entry")

# %%
# NBVAL_CHECK_OUTPUT
three = runs["pp x dp x tp"].plan
whole = from_hf(load_file(Path(files.name) / "grads"), three.model)  # one process's names
pieces = []  # what each rank holds of the gradient: (parameter, which part, sum of squares)
for rank in range(three.world_size):
    mine = {held.name for held in holds(three, rank)}
    mine |= {"embed.tokens.weight"} if copies_table(three, rank) else set()
    for spec in param_specs(three):
        if spec.name in mine:
            part = whole[spec.name]
            for cut in cuts(three, spec, three.mesh.coordinate(rank)):
                part = part.narrow(cut.dim, cut.start, cut.stop - cut.start)
            pieces.append((spec.name, tuple(cuts(three, spec, three.mesh.coordinate(rank))),
                           float(part.square().sum())))  # fmt: skip
norm = runs["pp x dp x tp"].report["steps"][0]["grad_norm"]
naive = sum(squares for *_, squares in pieces) ** 0.5
a_replica = (naive**2 / three.dp) ** 0.5
print(f"the run's gradient norm {norm:.4f}; all that eight ranks hold {naive:.4f}; one replica's"
      f" four {a_replica:.4f}")  # fmt: skip
for kind in ("embed.tokens", "norm", "mlp.up"):
    held = [name for name, *_ in pieces if kind in name]
    parts = {(name, part) for name, part, _ in pieces if kind in name}
    print(f"   {kind}: {len(held)} held, {len(parts)} different")
for zero in (0, 1):
    mine = program_of(three.but(zero=zero)).ranks[0]
    at = [i for i, instr in enumerate(mine) if instr.op == Op.SEND and instr.where == "table"]
    sums = [instr.label for instr in mine[: at[0]] if instr.axis == "dp" and instr.where != "loss"]
    print(f"zero={zero}, rank 0 over dp: {', '.join(sums)}; then over pp: {mine[at[0]].label}")

# %% [markdown]
# ## Explain: sum all of it, once
#
# The core sums a tied table over dp at both ends and lets the ends exchange sums. The other order gives the same, for sums commute,
# as long as both ends add **the same elements at the same stage**: whole to whole, or shard to like shard. The museum's bug adds
# after a reduce-scatter that cut the two tables differently: a sum on one rank, a part on another. The usual advice, ends first and dp
# after it, cannot go wrong that way.
#
# The **norm** of all gradients must count each *parameter* once, not each copy: once over dp, norms once over tp, the table at one end.
# Count all that a replica's ranks hold, and clipping shortens every step by that factor, in silence.
#
# ## Run: the measurement table
#
# The same model and data under four layouts, taking turns, so that what drifts hits all alike. *Own devices* is the replay: each
# op's own processor time, messages over one link fitted to all. Behind each figure stands how far the rounds lie apart.

# %%
model = {"layers": 4, "hidden": 64, "heads": 4, "seq": 64, "global_batch": 16, "microbatches": 4}
layouts = ("dp=1", "dp=2,tp=2", "pp=2,dp=2", "pp=2,dp=2,recompute=full")
asked, turns = contenders(layouts, model), Turns(steps=3, rounds=2)
measured = rounds.measure(asked, turns, pool(), lambda words, share: None)
report = table(asked, measured, turns, rate_here(pool(), "float32"))
names = ("tokens_per_s", "own_tokens_per_s", "comm_share", "exposed_ms", "state_bytes", "peak_bytes",
         "loss", "mfu")  # fmt: skip
said = compare_table.rows(report, names)
hfu = {
    row["name"]: row["figures"]["mfu"]["median"] * step_flops(who.plan) / model_flops(who.plan)
    for row, who in zip(report["rows"], asked, strict=True)
    if "mfu" in row["figures"]
}
for row in said:
    layout, *figures = row.items()
    print(layout[1] + "\n   " + "; ".join(f"{name} {value}" for name, value in figures)
          + (f"; HFU {hfu[layout[1]]:.3g}" if layout[1] in hfu else ""))  # fmt: skip
print(compare_table.mfu_words(report))
print(compare_table.machine_words(report))
more = 100 * (step_flops(big.but(recompute="full")) / model_flops(big) - 1)
answer("8 billion weights, all layers twice: per cent more FLOPs", my_guess_percent, round(more))

# %% [markdown]
# ## Explain: MFU and HFU
#
# **MFU** is model FLOPs over what the devices could have computed in that time:
# $\mathrm{MFU}=F_{\rm model}\,/\,(\text{seconds}\times\text{ranks}\times\text{peak})$, where $F_{\rm model}$ is a forward and a backward of twice
# that, once, whatever the layout does. **HFU** counts what was really computed: $F_{\rm model}+F_{\rm again}$. Full recomputation runs
# the layers' forward again, so HFU goes *up* while training does not get faster; compare layouts by MFU (Chowdhery et al. 2022,
# arXiv:2204.02311, [`rate.py`](../parallel_core/compare/rate.py)). A device here is one core of yours, and its peak is the fastest
# matmul it did; this model's matrices are too small to reach it, and your wires too slow.
#
# ## Exercise
#
# Where a rank is; what each axis sends, held against your runs; the order of the axes, as `rank_order` has it, that sends least between
# nodes, and then *runs*; a norm from what all ranks hold; both utilisations.


# %%
def place(rank, axes):
    """Where a rank is: {axis: digit}; `axes` are (name, degree), inner to outer."""
    raise NotImplementedError


def bytes_a_step(axis, plan, held):
    """Bytes on all wires of "dp", "tp" or "pp", in float64; `held`: numbers a replica holds."""
    raise NotImplementedError


def my_order(sent):
    """The rank_order, as in "tp-cp-dp-pp" (cp just inside dp), for axes that send these bytes."""
    raise NotImplementedError


def norm_once(pieces):
    """The norm of a gradient from what all ranks hold: (parameter, part, sum of squares)."""
    raise NotImplementedError


def utilisation(forward, again, seconds, ranks, peak):
    """(MFU, HFU) from FLOPs of the model's forward, and of what is computed a second time."""
    raise NotImplementedError


# %% tags=["raises-exception"]
for axes in ((("tp", 4), ("dp", 2), ("pp", 2)), (("pp", 3), ("tp", 2), ("dp", 5)), (("dp", 7),)):
    for rank in range(Mesh(axes).size):
        truth = Mesh(axes).coordinate(rank)
        assert place(rank, axes) == truth, f"rank {rank} of {axes}: {truth}"
for name, done in runs.items():
    every = [held_elements(done.plan, rank) for rank in range(done.plan.world_size)]
    held = sum(every) // done.plan.dp
    for axis, size in sent(done).items():
        found = bytes_a_step(axis, done.plan, held)
        assert found == size, f"{name}: over {axis} your run sent {size:,} bytes, not {found}"


def across(plan, sizes, per_node):
    """Bytes between nodes a step: of every axis the share of ring neighbours on two nodes."""
    total = 0
    for axis, size in sizes.items():
        groups = plan.mesh.groups(axis)
        pairs = [pair for g in groups for pair in zip(g, g[1:] + g[:1], strict=True)]
        total += size * sum(a // per_node != b // per_node for a, b in pairs) / len(pairs)
    return total


for name, per_node in (("pp x dp x tp", 2), ("pp x dp x tp", 4), ("the same, many tokens", 2)):
    plan, sizes = runs[name].plan, sent(runs[name])
    every = {order: across(plan.but(rank_order=order), sizes, per_node) for order in RANK_ORDERS}
    mine = my_order(sizes)
    assert mine in every, f"{mine!r} is none of {', '.join(RANK_ORDERS)}"
    better = min(every, key=every.get)
    assert every[mine] == every[better], (
        f"nodes of {per_node}: {every[mine]:,.0f} bytes between them; {better} {every[better]:,.0f}"
    )
turned = run(**cube, **few, rank_order=my_order(sent(runs["pp x dp x tp"])))
assert turned.report["parity"]["errors"]["gradients"] < 1e-12, "not the gradients of one process"
assert sent(turned) == sent(runs["pp x dp x tp"]), "another order sent other bytes"
found = norm_once(pieces)
assert abs(found / norm - 1) < 1e-12, f"your run's norm is {norm}, not {found}"
same_size = [("a", (), 9.0), ("b", (0,), 8.0), ("b", (1,), 8.0), ("a", (), 9.0)]
assert abs(norm_once(same_size) - 5) < 1e-12, "two parts may be as large and yet not the same"
for who in asked:
    once, all_of_it = model_flops(who.plan), step_flops(who.plan)
    found = utilisation(once / 3, all_of_it - once, 0.5, who.plan.world_size, 1e11)
    truth = mfu(who.plan, 0.5, 1e11), mfu(who.plan, 0.5, 1e11) * all_of_it / once
    apart = [abs(a / b - 1) for a, b in zip(found, truth, strict=True)]
    assert max(apart) < 1e-9, f"{who.name}: {truth}, not {found}"
print(f"All true. {turned.plan.rank_order}: {across(turned.plan, sent(turned), 2):,.0f} bytes a step"
      f" between nodes of 2, {across(three, sent(turned), 2):,.0f} in the usual order")  # fmt: skip


# %% tags=["solution"] jupyter={"source_hidden": true}
def place(rank, axes):
    """Where a rank is: {axis: digit}; `axes` are (name, degree), inner to outer."""
    digits = {}
    for name, degree in axes:
        rank, digits[name] = divmod(rank, degree)
    return digits


def bytes_a_step(axis, plan, held):
    """Bytes on all wires of "dp", "tp" or "pp", in float64; `held`: numbers a replica holds."""
    w, m = 8, plan.model  # float64
    tokens = plan.tokens_per_step
    if axis == "dp":
        return 2 * (plan.dp - 1) * w * held
    if axis == "tp":
        return 2 * (plan.tp - 1) * w * tokens * ((4 * m.layers + 2) * m.hidden + 3)
    table = 2 * plan.dp * w * m.vocab * m.hidden if m.tied else 0  # there and back, each replica
    return 2 * (plan.pp - 1) * w * tokens * m.hidden * plan.tp + table


def my_order(sent):
    """The rank_order, as in "tp-cp-dp-pp" (cp just inside dp), for axes that send these bytes."""
    return "-".join(sorted(sent, key=sent.get, reverse=True)).replace("dp", "cp-dp")


def norm_once(pieces):
    """The norm of a gradient from what all ranks hold: (parameter, part, sum of squares)."""
    return sum({(name, part): squares for name, part, squares in pieces}.values()) ** 0.5


def utilisation(forward, again, seconds, ranks, peak):
    """(MFU, HFU) from FLOPs of the model's forward, and of what is computed a second time."""
    could = seconds * ranks * peak
    return 3 * forward / could, (3 * forward + again) / could


# %%
for axes in ((("tp", 4), ("dp", 2), ("pp", 2)), (("pp", 3), ("tp", 2), ("dp", 5)), (("dp", 7),)):
    for rank in range(Mesh(axes).size):
        truth = Mesh(axes).coordinate(rank)
        assert place(rank, axes) == truth, f"rank {rank} of {axes}: {truth}"
for name, done in runs.items():
    every = [held_elements(done.plan, rank) for rank in range(done.plan.world_size)]
    held = sum(every) // done.plan.dp
    for axis, size in sent(done).items():
        found = bytes_a_step(axis, done.plan, held)
        assert found == size, f"{name}: over {axis} your run sent {size:,} bytes, not {found}"


def across(plan, sizes, per_node):
    """Bytes between nodes a step: of every axis the share of ring neighbours on two nodes."""
    total = 0
    for axis, size in sizes.items():
        groups = plan.mesh.groups(axis)
        pairs = [pair for g in groups for pair in zip(g, g[1:] + g[:1], strict=True)]
        total += size * sum(a // per_node != b // per_node for a, b in pairs) / len(pairs)
    return total


for name, per_node in (("pp x dp x tp", 2), ("pp x dp x tp", 4), ("the same, many tokens", 2)):
    plan, sizes = runs[name].plan, sent(runs[name])
    every = {order: across(plan.but(rank_order=order), sizes, per_node) for order in RANK_ORDERS}
    mine = my_order(sizes)
    assert mine in every, f"{mine!r} is none of {', '.join(RANK_ORDERS)}"
    better = min(every, key=every.get)
    assert every[mine] == every[better], (
        f"nodes of {per_node}: {every[mine]:,.0f} bytes between them; {better} {every[better]:,.0f}"
    )
turned = run(**cube, **few, rank_order=my_order(sent(runs["pp x dp x tp"])))
assert turned.report["parity"]["errors"]["gradients"] < 1e-12, "not the gradients of one process"
assert sent(turned) == sent(runs["pp x dp x tp"]), "another order sent other bytes"
found = norm_once(pieces)
assert abs(found / norm - 1) < 1e-12, f"your run's norm is {norm}, not {found}"
same_size = [("a", (), 9.0), ("b", (0,), 8.0), ("b", (1,), 8.0), ("a", (), 9.0)]
assert abs(norm_once(same_size) - 5) < 1e-12, "two parts may be as large and yet not the same"
for who in asked:
    once, all_of_it = model_flops(who.plan), step_flops(who.plan)
    found = utilisation(once / 3, all_of_it - once, 0.5, who.plan.world_size, 1e11)
    truth = mfu(who.plan, 0.5, 1e11), mfu(who.plan, 0.5, 1e11) * all_of_it / once
    apart = [abs(a / b - 1) for a, b in zip(found, truth, strict=True)]
    assert max(apart) < 1e-9, f"{who.name}: {truth}, not {found}"
print(f"All true. {turned.plan.rank_order}: {across(turned.plan, sent(turned), 2):,.0f} bytes a step"
      f" between nodes of 2, {across(three, sent(turned), 2):,.0f} in the usual order")  # fmt: skip
