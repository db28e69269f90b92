# %% [markdown]
# # 12 · Context parallel: ring, zigzag, Ulysses
#
# One sequence of a million tokens fits no GPU. Cut it: every rank has a part of the tokens, and everything in a model looks at one
# token at a time, except attention. A query needs the keys and values of *all* tokens before it, and most of them are elsewhere.
# So either keys travel (**ring attention**), or queries do, or ranks trade their part of the tokens for a part of the heads
# (**Ulysses**), or everybody simply gets all keys (**all-gather**).
#
# In 25 minutes you will find out who has nothing to do in a ring and repair it, put a softmax together from pieces that never met,
# count on your own runs which method sends least for which model, and meet the limit of each. The page *Context ring* of the app
# (`shardlab app`) plays it hop by hop.

# %%
from statistics import median

import torch
from IPython.display import HTML, display

from parallel_core.bench import context_crossover
from parallel_core.bench.context_crossover_cases import Sweep, plan_of
from parallel_core.cases import program_of
from parallel_core.context import METHODS, layout_of
from parallel_core.context.crossover import Ring
from parallel_core.context.layout import in_step, tile_map, work
from parallel_core.context.merge import Running
from parallel_core.context.rounding import KEPT, errors
from parallel_core.context.tile import attend
from parallel_core.context.traffic import LayerShape, kv_here, sent
from parallel_core.cost import Link, wire_bytes
from parallel_core.live import run
from parallel_core.plan import Plan, PlanError
from parallel_core.program import Op
from parallel_core.published import table
from parallel_core.replay import replay
from parallel_core.views.context_clock import Clock
from parallel_core.views.context_overlap import exposed, in_words
from parallel_core.views.context_plans import shape_of
from parallel_core.views.context_ring import figure

# %% [markdown]
# ## Predict: half the work, half the time?
#
# Four ranks hold a quarter of the sequence each, in order: rank 0 the beginning. Keys and values go round the ring in three hops; a
# rank attends to those that are there while the next come. A causal mask lets a query see only what is before it. That is half of all
# the work. The ring moves on when the last rank is ready: which rank is idle most? And if the sequence is dealt out so that
# all have the same to do (*zigzag*), how many times as fast is the attention on 4 ranks, and on 8?
#
# A model has 8 query heads, and 2 key/value heads that each serve 4 of them. In a forward, how many times the bytes of the ring does
# Ulysses send on 4 ranks?

# %%
my_guess_idle = 3  # change me: the rank of the contiguous layout that is idle most
my_guess_faster = {4: 1.0, 8: 1.0}  # change me: zigzag's speed, contiguous = 1, by ranks
my_guess_ulysses = 0.5  # change me: forward bytes of Ulysses to the ring's, 2 of 8 kv heads

# %% [markdown]
# ## Run: the same ring, cut in two ways
#
# 4,096 tokens of real text on four processes; what comes out is compared with one process that has the whole sequence. The figure is
# laid out by the package: the attention matrix, each tile with its rank's colour and the hop at which it is computed, then both ways
# on one clock. Below it your run: the processor time of each rank's own thread in the layer (not the wall clock, which shows mostly
# how many cores you have).

# %%
long = {"cp": 4, "layers": 1, "hidden": 64, "heads": 2, "seq": 4096, "global_batch": 1}
rings = {way: run(**long, cp_method=way, steps=5, quiet=True) for way in ("ring", "zigzag")}
clocks = {way: Clock(method=way, shape=shape_of(done.plan, way)) for way, done in rings.items()}
for way in ("zigzag", "ring"):
    shut = "" if way == "zigzag" else " open"
    both = figure(clocks[way], tuple(clocks.values()))
    display(HTML(f"<details{shut}><summary>{clocks[way].method}</summary>{both}</details>"))


def layer(done, rank, op, step=1):
    """The span of the first layer's F or B on a rank."""
    return next(s for s in done.trace.only(step).by_rank[rank] if (s.op, s.where) == (op, "layer0"))


def cpu_ms(done, op):
    """Processor time of each rank's thread in the layer, median of the steps after the first."""
    return [median(layer(done, r, op, s).cpu_ns / 1e6 for s in range(1, 5)) for r in range(4)]


for done in rings.values():
    print(done)
    for op in "FB":
        each = ", ".join(f"{ms:.1f}" for ms in cpu_ms(done, op))
        print(f"   {op}: ranks 0 to 3 computed {each} ms")
fast = Link(2e-5, 1e10)  # made up: 20 µs, 10 GB/s, and a device for each rank
step = {way: done.view.own_device(fast).only(3) for way, done in rings.items()}
took = {
    way: sum(s.duration for s in seen.by_rank[0] if s.where == "layer0") / 1e6
    for way, seen in step.items()
}
print(f"the layer with its MLP, replayed over {fast}: contiguous {took['ring']:.1f} ms, zigzag"
      f" {took['zigzag']:.1f} ms, {took['ring'] / took['zigzag']:.2f} times as fast")  # fmt: skip
slow = Link(2e-5, 2e8)  # 50 times slower: now it matters whether a hop travels beside the tiles
ways_to_wait = {ahead: rings["zigzag"].plan.but(overlap_cp=ahead) for ahead in (True, False)}
stood = {
    ahead: exposed(replay(plan, program_of(plan), rings["zigzag"].trace.only(3), link=slow))
    for ahead, plan in ways_to_wait.items()
}
print(f"zigzag replayed over {slow}.", in_words(stood[True], stood[False]).replace("*", ""))

hops_in_step = {
    n: [in_step(work(layout_of(way, 128 * n, ranks=n))) for way in rings] for n in (2, 4, 8, 64)
}
slower = {n: times[0] / times[1] for n, times in hops_in_step.items()}
table_of_four = work(layout_of("ring", 4096, ranks=4))
waits = [1 - sum(hops) / in_step(table_of_four) for hops in table_of_four]
idle = max(range(4), key=lambda rank: waits[rank])
print(f"You said rank {my_guess_idle} is idle most: it is rank {idle}.")
print(f"You said {my_guess_faster}: {', '.join(f'{n}: {float(slower[n])}' for n in (4, 8))}.")

# %%
# NBVAL_CHECK_OUTPUT
assert max(done.parity for done in rings.values()) < 1e-5, "not the gradients of one process"
for way in rings:
    laid = layout_of(way, 4096, ranks=4)
    done_by = {(s.q_chunk, s.k_chunk): f"r{s.ring}h{s.hop}" for s in tile_map(laid)}
    count = max(q for q, _ in done_by) + 1
    print(f"{way}: rows are chunks of queries, columns of keys; r0h1 is rank 0 at hop 1")
    for q in range(count):
        print("  ", " ".join(done_by.get((q, k), "   .") for k in range(count)))
    for rank, hops in enumerate(work(laid)):
        each = " + ".join(f"{float(w):.1f}" for w in hops)
        print(f"   rank {rank}: {each} = {float(sum(hops))}")
    print("   each hop as long as its slowest rank:", float(in_step(work(laid))))
for n, times in hops_in_step.items():
    print(f"{n} ranks: {float(times[0])} against {float(times[1])}, {float(slower[n]):.4g} times")
print("idle, contiguous:", ", ".join(f"rank {r} {float(w):.0%}" for r, w in enumerate(waits)))
for op in ("F", "B"):
    inside = [f"{what.removeprefix('cp_')} {size:,}" for _, _, what, size, *_ in
              layer(rings["ring"], 0, op).inside]  # fmt: skip
    print(f"{op} on rank 0 passes on:", ", ".join(inside))

# %% [markdown]
# ## Explain: the mask halves the work, not the time
#
# Take a block of queries against a block of keys, without a mask, as 1. Rank $r$ sees the $r$ blocks before its own, and half of its
# own: $r+\frac12$. For four ranks 0.5, 1.5, 2.5, 3.5; the sum is 8 of 16, half, as promised. But at every hop *some* rank has a full
# tile, namely the last, so the ring takes $N-\frac12$, and **the first rank** is done after hop 0 and then only passes on what others
# need. Zigzag cuts the sequence into $2N$ chunks and gives rank $r$ the chunks $r$ and $2N-1-r$: an early, cheap one and a late,
# dear one. Every rank has half a tile at every hop: $\frac N2$ ([`layout.py`](../parallel_core/context/layout.py)).
#
# $$\frac{N-\frac12}{N/2}=2-\frac1N$$
#
# Look at your run's processor times: the contiguous ranks are equal steps apart, above what the rest of the layer costs everybody;
# zigzag's are nearly one number. In the backward the keys go round once more, and behind them travels what each rank has found
# for *their* gradient, `dkv`: it needs one hop more than the keys, to come home ([`ring.py`](../parallel_core/context/ring.py)).

# %% [markdown]
# ## Run: a softmax from pieces
#
# How can a rank finish a softmax over keys it has never seen together? From each tile it keeps the result and **one number a row**:
# the log of the sum of exponentials, lse. By hand, in one process: four zigzag ranks, tile after tile in the order of the hops,
# against attention over the whole sequence. And twice wrong: a mean instead of weights, and sums kept in bfloat16, which a ring that one
# process plays member by member shows for 2, 8 and 32 ranks: bit for bit what real ranks compute.

# %%
draw = torch.Generator().manual_seed(0)
q_bhsk = 3 * torch.randn(1, 2, 256, 16, generator=draw)
kv = torch.randn(2, 1, 1, 256, 16, generator=draw)  # one key/value head for both query heads
whole, whole_lse = attend(q_bhsk, kv[0], kv[1], diagonal=True)
laid = layout_of("zigzag", 256, ranks=4)
off, naive = 0.0, 0.0
for rank in range(4):
    mine = list(laid.positions(rank))
    running = Running(q_bhsk[:, :, mine], torch.float32)
    found, met = torch.zeros_like(q_bhsk[:, :, mine]), torch.zeros(len(mine), 1)
    for hop in range(4):
        source = (rank - hop) % 4  # whose keys are here now
        block, tiles = kv[:, :, :, list(laid.positions(source))], laid.tiles(rank, source)
        running.meet(q_bhsk[:, :, mine], block, tiles)
        for tile in tiles:
            rows, (k, v) = slice(tile.rows.start, tile.rows.stop), block[:, :, :, tile.cols]
            found[:, :, rows] += attend(q_bhsk[:, :, mine][:, :, rows], k, v,
                                        diagonal=tile.diagonal)[0]  # fmt: skip
            met[rows] += 1
    off = max(off, float((running.out_bhsk - whole[:, :, mine]).abs().max()))
    naive = max(naive, float((found / met - whole[:, :, mine]).abs().max()))
print(f"merged by lse: off by {off:.1e}; the mean of the tiles: off by {naive:.1f}")

rounded = {(one.kept, one.ranks): one for one in errors((2, 8, 32))}  # a bfloat16 ring, played
for kept in KEPT:
    each = ", ".join(f"{n} ranks {rounded[kept, n].a:.2%}" for n in (2, 8, 32))
    print(f"bfloat16 model, sums kept in {kept}: off by {each}")

# %%
# NBVAL_CHECK_OUTPUT
print("merged by lse, the whole to 1e-5:", off < 1e-5)
print("the mean of the tiles, off by more than 0.5:", naive > 0.5)
for what in ("a", "dq", "dk", "dv"):
    few, many = ({kept: getattr(rounded[kept, n], what) for kept in KEPT} for n in (2, 32))
    print(f"{what}: in float32 32 ranks as good as 2: {many['float32'] < 1.01 * few['float32']}; in"
          f" bfloat16 more than twice as far off: {many['bfloat16'] > 2 * few['bfloat16']}")  # fmt: skip

# %% [markdown]
# ## Explain: weigh by the sum of exponentials
#
# A softmax is a mean with weights $e^{s}$. Two means over different keys are merged by the sums of *their* weights,
# $e^{\mathrm{lse}}$:
#
# $$w=\frac{e^{\mathrm{lse}_b}}{e^{\mathrm{lse}_a}+e^{\mathrm{lse}_b}}=\sigma(\mathrm{lse}_b-\mathrm{lse}_a),\qquad
# o=o_a-w\,(o_a-o_b),\qquad \mathrm{lse}=\log(e^{\mathrm{lse}_a}+e^{\mathrm{lse}_b})$$
#
# That is exact, in any order, and no exponential of a large score is ever formed
# ([`merge.py`](../parallel_core/context/merge.py)). So ring attention is no approximation: your runs' gradients are those of one
# process. But every merge rounds what all merges before it found: in bfloat16 the error grows with the ring, so sums are kept *and
# sent* in float32, whatever the model's type.
#
# ## Run: who sends what?
#
# Short runs with 8 query heads and 8, 2 or 1 key/value heads. What leaves a rank is counted from the messages in the trace. Then a
# chat: 1,024 tokens, most of them *cached*, so that their keys are there and only the new ones ask. Pass-KV and pass-Q by turns on two
# real ranks, over a wire that is slowed to 512 FLOPs a byte, as between machines.

# %%
short = {"cp": 4, "layers": 1, "hidden": 64, "heads": 8, "seq": 256, "global_batch": 1, "steps": 2}
ways = ("zigzag", "allgather", "ulysses", "pass-q")
runs = {
    (way, kv_heads): run(**short, cp_method=way, kv_heads=kv_heads, quiet=True)
    for kv_heads in (8, 2, 1)
    for way in ways
}


def leaves(done, op=""):
    """Bytes of context parallelism that left rank 0 in the layer of one step; op F, B or both."""
    sent_here = [m for each in op or "FB" for m in layer(done, 0, each).inside]
    return sum(wire_bytes(Op(m[0]), m[3], 4) // 4 for m in sent_here)


def counted_before(done, backward):
    """The same, by traffic.py, before anything runs."""
    way, m = done.plan.cp_method, done.plan.model
    shape = LayerShape(layout=done.plan.context, batch=1, heads=m.heads, kv_heads=m.kv,
                       head_dim=m.head_dim, width=4)  # fmt: skip
    return sent(METHODS[way].moves(shape, backward), shape.layout)


ratio = leaves(runs["ulysses", 2], "F") / leaves(runs["zigzag", 2], "F")
print(f"You said {my_guess_ulysses}: Ulysses sends {ratio} times the ring's bytes forward.")
chat = context_crossover.measure(plan_of(seq=1024, kv_heads=1), Sweep(rounds=3), lambda said: None)
for name, row in chat.rows.items():
    print(f"   {name}: {row.median:.3g} {row.unit}, {row.low:.3g} to {row.high:.3g}")
print("x: pass-Q's time over pass-KV's. " + next(n for n in chat.notes if n.startswith("1 of 8")))

# %%
# NBVAL_CHECK_OUTPUT
print("bytes that left a rank, forward + backward; 8 query heads, 4 ranks, 256 tokens, float32")
print("  kv heads", "".join(f"{way:>19}" for way in ways))
for kv_heads in (8, 2, 1):
    cells = []
    for way in ways:
        done = runs[way, kv_heads]
        assert done.parity < 1e-5, f"{way}: {done.parity} from one process"
        wire = done.report["ledger"]["wire"]
        assert wire["predicted"] == wire["measured"], f"{way}: predicted is not measured"
        both = [leaves(done, op) for op in "FB"]
        assert both == [counted_before(done, backward) for backward in (False, True)]
        cells.append(f"{both[0]:,} + {both[1]:,}")
    print(f"  {kv_heads:8}", "".join(f"{cell:>19}" for cell in cells))
half = run(**short, cp_method="zigzag", kv_heads=2, dtype="bfloat16", parity=False, quiet=True)
in_half = {m[2]: m[3] for op in "FB" for m in layer(half, 0, op).inside}
print("a hop in bfloat16:", ", ".join(f"{what} {size:,} bytes" for what, size in in_half.items()))
for heads, kv_heads, ranks in ((8, 8, 8), (8, 2, 8), (8, 1, 8), (8, 8, 16), (6, 3, 4)):
    try:
        fits = Plan.of(cp=ranks, cp_method="ulysses", heads=heads, kv_heads=kv_heads, hidden=96)
        said = f"fits, each kv head on {ranks * kv_here(fits.model.kv, ranks) // kv_heads}"
    except PlanError as error:
        said = f"refused: {error}"
    print(f"Ulysses, {heads} heads, {kv_heads} kv heads, {ranks} ranks: {said}")

# %%
# NBVAL_CHECK_OUTPUT
for row in table("ring_attention_table2").rows:
    here = Ring(n=1, heads=32, kv_heads=32, flops=row["TF"] * 1e12, bytes_per_s=row["GBps"] * 1e9)
    few = Ring(n=1, heads=32, kv_heads=4, flops=here.flops, bytes_per_s=here.bytes_per_s)
    print(f"{row['hw']:15}: a hop hides from {here.kv_hides_from / 1e3:5.1f} k tokens a rank"
          f" (quoted {row['min_block_k']}), with 4 of 32 kv heads"
          f" {few.kv_hides_from / 1e3:.2f} k")  # fmt: skip
print("quoted:", table("ring_attention_table2").source)
meta = Ring(n=4, heads=128, kv_heads=8, flops=800e12, bytes_per_s=50e9)
quoted = table("cp_table4")
agree = 0
for row in quoted.rows:
    faster = "pass-kv" if row["passKV_ms"] < row["passQ_ms"] else "pass-q"
    agree += meta.choose(row["T_new"], row["P_cached"]) == faster
print(f"q is the smaller message up to {meta.q_is_smaller_up_to:.1%} new tokens; the rule chooses"
      f" the faster one in {agree} of {len(quoted.rows)} quoted rows ({quoted.source})")  # fmt: skip
for case in chat.settings["cases"]:
    print(
        f"1 of 8 kv heads, {case['share']:7.2%} new: a hop of"
        f" kv {case['hop_bytes']['pass-kv']:,} bytes, of q {case['hop_bytes']['pass-q']:,}"
    )

# %% [markdown]
# ## Explain: four ways, four limits
#
# A **ring** brings every block to every rank: with $G$ key/value heads of width $K$ a rank sends $2GK\,\frac SN(N-1)$ numbers
# forward. More ranks do not make that less, but it hides: a hop has a tile beside it, and a tile grows with the *square* of the
# block. From some block on the ring costs no time; fewer key/value heads (GQA) bring that block down in proportion. **All-gather KV**
# sends just the same forward, in one message before the first tile: nothing to hide under, and for a moment all keys on every rank.
# Llama 3 chose it nevertheless: with GQA keys are small, the work outgrows them as $S^2$ against $S$, and any mask is easy when all
# keys are there (Grattafiori et al. 2024, section 3.3.2).
#
# **Ulysses** trades: an all-to-all, and a rank has *all* tokens of $H/N$ heads; ordinary attention; an all-to-all back. A number
# moves once, not $N-1$ times: with as many key/value heads as heads that is $\frac2N$ of the ring's bytes forward. The limit is the
# heads: **$N\le H$**, and without copies of key/value heads **$N\le G$**. Beyond that neighbours get copies, so GQA saves nothing
# further: in your table two key/value heads cost as much as one. Which method sends less is thus a question of the model. A *hybrid*
# (`cp_method="hybrid"`) puts Ulysses inside a node and a ring around it.
# **Pass-Q** sends the queries round; what they found must come home, unhidden. In training it seldom pays; behind a long cached
# prompt, where new tokens are few and keys are many, it does: in your chat the times cross near the share at which it sends fewer
# bytes *in all*, and the published rule, which weighs a hop of queries alone, is the more generous. Lesson 17 returns to it.
#
# ## Exercise
#
# Six formulas, held against the package and against *your* runs. Then a plan for a model of **2 heads and one key/value head** on
# four ranks: equal work for all, no message larger than a block's keys and values, and at most 1.2 times the bytes of
# all-gather KV.


# %%
def work_of(rank, n):
    """Contiguous, causal: what a rank of n computes, in tiles (block against block, no mask)."""
    raise NotImplementedError


def slowdown(n):
    """How many times as long as zigzag's the contiguous ring takes on n ranks."""
    raise NotImplementedError


def merge(a, lse_a, b, lse_b):
    """a, b [..., S, K] and lse [..., S] over two sets of keys -> (out, lse) over both."""
    raise NotImplementedError


def forward_numbers(method, heads, kv_heads, n):
    """What leaves a rank in a forward; 1 is one head of one rank's tokens: (S/N) x K numbers."""
    raise NotImplementedError


def most_ranks(heads, kv_heads, copies):
    """The most ranks for Ulysses, with or without copies of key/value heads."""
    raise NotImplementedError


def smaller_hop(heads, kv_heads):
    """The share of new tokens up to which a hop of their queries is no larger than one of kv."""
    raise NotImplementedError


def my_plan():
    """Fields for run(), as in {"cp": 4, "cp_method": "ring"}."""
    raise NotImplementedError


# %% tags=["raises-exception"]
for n in (2, 4, 8):
    table_of = work(layout_of("ring", 64 * n, ranks=n))
    for rank, hops in enumerate(table_of):
        assert work_of(rank, n) == sum(hops), f"rank {rank} of {n} has {sum(hops)} tiles"
    assert abs(slowdown(n) - slower[n]) < 1e-9, f"{n} ranks: not {slowdown(n)}"
spent = cpu_ms(rings["ring"], "B")
busiest = max(range(4), key=lambda rank: work_of(rank, 4))
assert spent[busiest] == max(spent), f"your run's processor times were {spent}"
large, wide_kv = 300 * q_bhsk.double(), kv.double()  # exp of such scores is infinite
pieces = list(zip(*(x.split((100, 6, 150), dim=2) for x in wide_kv), strict=True))
parts = [attend(large, k, v, diagonal=False) for k, v in pieces]
truth, truth_lse = attend(large, *wide_kv, diagonal=False)
for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
    out, lse = parts[order[0]]
    for at_piece in order[1:]:
        out, lse = merge(out, lse, *parts[at_piece])
    assert (out - truth).abs().max() < 1e-5, f"off by {(out - truth).abs().max()}"
    assert torch.allclose(lse, truth_lse), "the lse is not that of all keys"
for (way, kv_heads), done in runs.items():
    if way != "pass-q":
        one = 256 // 4 * done.plan.model.head_dim * 4  # bytes, float32
        found = one * forward_numbers(way, 8, kv_heads, 4)
        seen = leaves(done, "F")
        assert found == seen, f"{way}, {kv_heads} kv heads: your run sent {seen}, not {found}"
for heads, kv_heads in ((8, 8), (16, 4), (32, 8), (64, 1)):
    fits, apart = [], []
    for n in (1, 2, 4, 8, 16, 32, 64, 128):
        try:
            Plan.of(cp=n, cp_method="ulysses" if n > 1 else "zigzag", heads=heads,
                    kv_heads=kv_heads, hidden=8 * heads)  # fmt: skip
        except PlanError:
            continue
        fits.append(n)
        apart += [n] if kv_here(kv_heads, n) * n == kv_heads else []
    assert most_ranks(heads, kv_heads, True) == max(fits), f"{heads} heads: up to {max(fits)}"
    assert most_ranks(heads, kv_heads, False) == max(apart), f"uncopied: up to {max(apart)}"
for case in chat.settings["cases"]:  # of your own chat
    no_larger = case["hop_bytes"]["pass-q"] <= case["hop_bytes"]["pass-kv"]
    assert (case["share"] <= smaller_hop(8, 1)) == no_larger, f"at {case['share']:.2%} new"
assert min(smaller_hop(8, 8), 1) == 1, "without a cache, and with as many kv heads, q is smaller"
given = {"layers": 1, "hidden": 64, "heads": 2, "kv_heads": 1, "seq": 256, "global_batch": 1,
         "steps": 2, "quiet": True}  # fmt: skip
mine, usual = run(**{**my_plan(), **given}), run(cp=4, cp_method="allgather", **given)
assert mine.plan.world_size == mine.plan.cp == 4, f"{mine.plan.layout} is not four ranks of cp"
assert mine.parity < 1e-5, f"{mine.parity} from one process"
ledger = mine.report["ledger"]["wire"]
assert ledger["measured"] == ledger["predicted"], "your run sent something else than predicted"
for rank in range(4):  # of your own run, message by message
    sizes = [m[3] for op in "FB" for m in layer(mine, rank, op).inside]
    most = 2 * 256 // 4 * mine.plan.model.head_dim * 4
    assert max(sizes) <= most, f"rank {rank} hands over {max(sizes)} bytes at once, not {most}"
shares = [sum(hops) for hops in work(mine.plan.context)]
assert len(set(shares)) == 1, f"the ranks have {[str(share) for share in shares]} tiles to do"
times = leaves(mine) / leaves(usual)
assert times <= 1.2, f"{times:.2f} times the bytes of all-gather KV"
print(f"All true. {mine.plan.layout}: {times:.2f} times the bytes of all-gather KV")


# %% tags=["solution"] jupyter={"source_hidden": true}
def work_of(rank, n):
    """Contiguous, causal: what a rank of n computes, in tiles (block against block, no mask)."""
    return rank + 0.5


def slowdown(n):
    """How many times as long as zigzag's the contiguous ring takes on n ranks."""
    return 2 - 1 / n


def merge(a, lse_a, b, lse_b):
    """a, b [..., S, K] and lse [..., S] over two sets of keys -> (out, lse) over both."""
    weight = torch.sigmoid(lse_b - lse_a)[..., None]
    return a - weight * (a - b), torch.logaddexp(lse_a, lse_b)


def forward_numbers(method, heads, kv_heads, n):
    """What leaves a rank in a forward; 1 is one head of one rank's tokens: (S/N) x K numbers."""
    if method == "ulysses":  # q, k, v there and a back; of each row 1/n stays
        return 2 * (heads + max(kv_heads, n)) * (n - 1) / n
    return 2 * kv_heads * (n - 1)


def most_ranks(heads, kv_heads, copies):
    """The most ranks for Ulysses, with or without copies of key/value heads."""
    return heads if copies else kv_heads


def smaller_hop(heads, kv_heads):
    """The share of new tokens up to which a hop of their queries is no larger than one of kv."""
    return 2 * kv_heads / heads  # T/n H K against 2 (T+P)/n G K


def my_plan():
    """Two heads are too few for Ulysses on four ranks; the gather's gradients are one message."""
    return {"cp": 4, "cp_method": "zigzag"}


# %%
for n in (2, 4, 8):
    table_of = work(layout_of("ring", 64 * n, ranks=n))
    for rank, hops in enumerate(table_of):
        assert work_of(rank, n) == sum(hops), f"rank {rank} of {n} has {sum(hops)} tiles"
    assert abs(slowdown(n) - slower[n]) < 1e-9, f"{n} ranks: not {slowdown(n)}"
spent = cpu_ms(rings["ring"], "B")
busiest = max(range(4), key=lambda rank: work_of(rank, 4))
assert spent[busiest] == max(spent), f"your run's processor times were {spent}"
large, wide_kv = 300 * q_bhsk.double(), kv.double()  # exp of such scores is infinite
pieces = list(zip(*(x.split((100, 6, 150), dim=2) for x in wide_kv), strict=True))
parts = [attend(large, k, v, diagonal=False) for k, v in pieces]
truth, truth_lse = attend(large, *wide_kv, diagonal=False)
for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
    out, lse = parts[order[0]]
    for at_piece in order[1:]:
        out, lse = merge(out, lse, *parts[at_piece])
    assert (out - truth).abs().max() < 1e-5, f"off by {(out - truth).abs().max()}"
    assert torch.allclose(lse, truth_lse), "the lse is not that of all keys"
for (way, kv_heads), done in runs.items():
    if way != "pass-q":
        one = 256 // 4 * done.plan.model.head_dim * 4  # bytes, float32
        found = one * forward_numbers(way, 8, kv_heads, 4)
        seen = leaves(done, "F")
        assert found == seen, f"{way}, {kv_heads} kv heads: your run sent {seen}, not {found}"
for heads, kv_heads in ((8, 8), (16, 4), (32, 8), (64, 1)):
    fits, apart = [], []
    for n in (1, 2, 4, 8, 16, 32, 64, 128):
        try:
            Plan.of(cp=n, cp_method="ulysses" if n > 1 else "zigzag", heads=heads,
                    kv_heads=kv_heads, hidden=8 * heads)  # fmt: skip
        except PlanError:
            continue
        fits.append(n)
        apart += [n] if kv_here(kv_heads, n) * n == kv_heads else []
    assert most_ranks(heads, kv_heads, True) == max(fits), f"{heads} heads: up to {max(fits)}"
    assert most_ranks(heads, kv_heads, False) == max(apart), f"uncopied: up to {max(apart)}"
for case in chat.settings["cases"]:  # of your own chat
    no_larger = case["hop_bytes"]["pass-q"] <= case["hop_bytes"]["pass-kv"]
    assert (case["share"] <= smaller_hop(8, 1)) == no_larger, f"at {case['share']:.2%} new"
assert min(smaller_hop(8, 8), 1) == 1, "without a cache, and with as many kv heads, q is smaller"
given = {"layers": 1, "hidden": 64, "heads": 2, "kv_heads": 1, "seq": 256, "global_batch": 1,
         "steps": 2, "quiet": True}  # fmt: skip
mine, usual = run(**{**my_plan(), **given}), run(cp=4, cp_method="allgather", **given)
assert mine.plan.world_size == mine.plan.cp == 4, f"{mine.plan.layout} is not four ranks of cp"
assert mine.parity < 1e-5, f"{mine.parity} from one process"
ledger = mine.report["ledger"]["wire"]
assert ledger["measured"] == ledger["predicted"], "your run sent something else than predicted"
for rank in range(4):  # of your own run, message by message
    sizes = [m[3] for op in "FB" for m in layer(mine, rank, op).inside]
    most = 2 * 256 // 4 * mine.plan.model.head_dim * 4
    assert max(sizes) <= most, f"rank {rank} hands over {max(sizes)} bytes at once, not {most}"
shares = [sum(hops) for hops in work(mine.plan.context)]
assert len(set(shares)) == 1, f"the ranks have {[str(share) for share in shares]} tiles to do"
times = leaves(mine) / leaves(usual)
assert times <= 1.2, f"{times:.2f} times the bytes of all-gather KV"
print(f"All true. {mine.plan.layout}: {times:.2f} times the bytes of all-gather KV")
