# %% [markdown]
# # 11 · Experts: who goes where, and who waits
#
# A model learns more with more weights, and pays for every weight it multiplies with. A **mixture of experts** breaks that tie: in the
# place of one MLP stand many, and a small *router* sends each token to a few of them. Most weights rest most of the time. But the
# experts lie on different ranks, so tokens travel, and how many come is decided by the data, anew in every layer of every step.
#
# In 25 minutes you will route tokens by hand, see 16 experts on 4 real ranks and why the step waits for the fullest, drop tokens and
# cure the router that made you do so, count the bytes of an **all-to-all** against its rival, and find what can hide it. The page
# *Expert exchange* of the app (`shardlab app`) shows every token.
#
# ## Predict: sixteen experts, four ranks
#
# Experts 0 to 15 lie on ranks 0 to 3, neighbours together. Which rank holds expert 5? If a router chose with even chances, what share
# of all choices would leave their rank? Eight experts are asked for by 40, 10, 10, 10, 10, 20, 20 and 8 tokens, and each takes 1.25
# times its even share at most: how many choices are *dropped*? A token goes to $k$ experts. Instead of sending it there, every rank
# could simply gather all tokens (an all-gather): from which $k$ on does that send no more, on 4 ranks?
# Lastly: each rank averages its loss over its own tokens, and gradients are then averaged over the ranks *that hold a weight*, as DDP does.
# How many times too large is an expert's gradient, if each expert lies on one of the 4 ranks?

# %%
from statistics import median

import torch
from IPython.display import HTML, display

from parallel_core.bench import experts as bench
from parallel_core.cost import Link
from parallel_core.expert import quoted
from parallel_core.expert.capacity import drop_rate, dropped, even, places
from parallel_core.expert.placement import (
    Placement,
    imbalance,
    rank_loads,
    ranks_visited,
    static,
)
from parallel_core.expert.replication import replicating
from parallel_core.expert.routing import Rules, choose
from parallel_core.expert.ted import Ted
from parallel_core.expert.traffic import Spread, Width, dispatch_bytes
from parallel_core.live import run
from parallel_core.trace import Kind
from parallel_core.views import expert_ahead, expert_curves, expert_grid
from parallel_core.views.expert_cure import cures
from parallel_core.views.expert_rows import loads, received, routing_of, tokens
from parallel_core.views.expert_times import hidden_in_words, in_words, shares
from parallel_core.views.expert_ways import handed

my_guess_rank = 2  # change me: the rank of expert 5
my_guess_leaves = 0.5  # change me: share of choices that leave their rank
my_guess_dropped = 12  # change me: of 128 choices
my_guess_k = 8  # change me: choices a token from which all-gather sends no more
my_guess_times = 1  # change me: the expert's gradient, right = 1


def answer(what, guess, truth, why):
    """Your guess beside the truth, and where a different one often comes from."""
    near = abs(guess - truth) < 1e-6
    print(f"{what}: you said {guess:g}, it is {truth:g}.", "Well seen." if near else why)


# %% [markdown]
# ## Run: the same six tokens, three routers
#
# First without any rank: six tokens, three experts, one choice each. The numbers are logits, made up. A column is an expert; `X`
# went there, `o` asked and found it full. *Capacity* gives each expert $C=\lceil f\,kS/E\rceil$ places; *expert choice* turns the
# question round and lets each expert pick its $C$ tokens.
#
# Then real: a layer of 16 experts on four processes, a router as it is born. The grid shows who chose whom; a tile has the colour
# of the rank that holds the expert.

# %%
# NBVAL_CHECK_OUTPUT
logits_bse = torch.tensor([[[3.0, 1, 0], [4, 2, 1], [2, 1, 0], [0, 4, 2], [5, 0, 3], [2, 0, 1]]])
for router in ("dropless", "capacity", "expert-choice"):
    rules = Rules(experts=3, top_k=1, router=router, capacity=1.0)
    chosen = choose(logits_bse, rules)
    print(f"{router}, at most {rules.places(6)} tokens an expert")
    for asked, kept in zip(chosen.asked[0].tolist(), chosen.kept[0].tolist(), strict=True):
        print(
            "  ",
            " ".join("X" if k else "o" if a else "." for a, k in zip(asked, kept, strict=True)),
        )

model = {"dp": 4, "ep": 4, "experts": 16, "top_k": 2, "layers": 1, "hidden": 64, "heads": 4,
         "ffn": 256, "seq": 128, "global_batch": 4, "lr": 1e-4, "quiet": True}  # fmt: skip
born = run(**model, dtype="float64", steps=4)
record, layer = born.view.routing, loads(born.view.routing, step=0, layer=0)
print("expert 5 lies on rank", *static(16, 4).holders[5])
for token in tokens(record, step=0, layer=0)[:4]:
    each = ", ".join(f"expert {e} on rank {e // 4}" for e, _ in token.choices)
    print(f"   token {token.position} of rank {token.home}: {each}")

# %%
few = expert_grid.few(tokens(record, step=0, layer=0), 32)
picture = expert_grid.Picture(tokens=few, loads=layer, kind=Kind.MEASURED)
display(HTML(expert_grid.drawing(picture)))
print(born)
for step in range(1, 4):
    took = shares(born.plan, born.own, received(record, step=step), step)
    print(f"step {step}:", in_words(took).replace("*", ""))
answer("expert 5", my_guess_rank, 1, "Counting begins with 0: rank 1, the second, has 4 to 7.")
spread = Spread(experts=16, top_k=2, ranks=4, node=4)
leaves = 1 - 1 / spread.ranks
answer(
    "share that leaves", my_guess_leaves, leaves, "One rank in four is the token's own: (R-1)/R."
)

# %% [markdown]
# ## See: what is sent looks fair, what is done is not
#
# Four steps of one layer. Every token makes two rows, wherever they go, so in a dispatch each rank sends as much as any other.
# What *arrives* is up to the router. The bytes that each rank handed over are counted in the run and reckoned from its routing.

# %%
# NBVAL_CHECK_OUTPUT
assert born.parity < 1e-12, f"{born.parity} from one process with all experts"
width = 64 * 8  # bytes of a row, float64
rows = [row for row in record.rows if row.step == 0]
print("rows sent by each rank:", [sum(row.kept) for row in sorted(rows, key=lambda r: r.rank)])
print("rows that its experts got:", layer.rank_loads, "together", sum(layer.rank_loads))
print(f"the fullest over the mean: {layer.imbalance:.2f}")
away = sum(sum(row.kept) - layer.by_rank(row.kept)[row.rank] for row in rows)
print(f"rows that left their rank: {away} of {sum(layer.kept)}, even chances say {leaves:.0%}")
counted = born.report["ledger"]["wire"]["measured"]["ep"]["all_to_all"]["payload_bytes"]
for rank, (reckoned, found) in enumerate(handed(record, counted)):
    assert reckoned == found, f"rank {rank} handed over {found} bytes, not {reckoned}"
print(
    "bytes handed over, dispatch and combine, forward and backward:",
    [f for _, f in handed(record, counted)],
)

off = born.report["parity"]["max_rel_error"]
print("every gradient is that of one process with all experts, to 1e-10 of it:", off < 1e-10)

# %% [markdown]
# ## Explain: three messages, and one divisor
#
# A layer of experts is four pieces: *route*, *dispatch*, *experts*, *combine*. A rank first tells each other how many rows
# will come (16 whole numbers: the one moment in which the host must look), then the rows go, an **all-to-all** of uneven parts, and
# what the experts made comes back the same way ([`expert_step.py`](../parallel_core/expert_step.py)). A backward goes both ways once
# more. With even chances $\frac{R-1}R$ of the choices leave their rank, and a rank with $T$ tokens of width $D$ sends
# $kT\frac{R-1}R D$ numbers in a dispatch. But a combine waits for the rank with the most rows: **time is the fullest rank's**.
#
# Experts add no ranks: they lie on data-parallel ones, each a slice of the layer (`ep` *folds* into `dp`). A rank's expert has then
# seen the tokens of **all** `ep` ranks, and its gradient is a sum over them already. Divide it by the ranks that hold it, as DDP
# does, and it is `ep` times too large, since every loss was a mean over one rank's tokens. The divisor is the *whole* data size, for
# experts as for the rest. Here a loss is divided once, by all tokens of the step; so the gradients above are those of one process. With tensor parallelism
# besides you get two meshes on the same ranks, *tensor x expert x data* ([`ted.py`](../parallel_core/expert/ted.py)).
#
# ## Run: a router that leans
#
# Now a router made to lean to the first experts (`skew`). What does a capacity cost, what cures the lean? The *auxiliary loss*
# pulls at the router's weights; the *bias* does not touch a gradient: after each step an expert that had more than the mean is made
# a little less attractive. Watch the ranks' clocks: who computes, and who waits?

# %%
lean = {**model, "skew": 0.3}
routers = {
    "even, capacity": run(**model, router="capacity", capacity=1.25, steps=1),
    "leaning, capacity": run(**lean, router="capacity", capacity=1.25, steps=1),
    "leaning, expert choice": run(**lean, router="expert-choice", capacity=1.0, steps=1),
    "leaning, dropless": run(**lean, steps=1),
}
balances = {
    "none": {},
    "auxiliary loss": {"balance": "aux", "aux_loss": 1.0},
    "bias": {"balance": "bias", "bias_rate": 0.003},
}
cured = {name: run(**lean, **way, steps=24, parity=False) for name, way in balances.items()}
steps_of = {name: done.report["experts"]["steps"] for name, done in cured.items()}
display(expert_curves.imbalance(steps_of, [str(Kind.MEASURED)]))
for name, done in cured.items():
    steps = steps_of[name]
    late = [step["rank_imbalance"] for step in steps[-8:]]
    print(f"{name}: fullest rank / mean {steps[0]['rank_imbalance']:.2f} in the first step,"
          f" {sum(late) / 8:.2f} in the last eight; loss {done.losses[-1]:.3f}")  # fmt: skip
    seen = [
        shares(done.plan, done.own, received(done.view.routing, step=n), n) for n in range(16, 24)
    ]
    work = [median(step[rank].work_ns / 1e6 for step in seen) for rank in range(4)]
    wait = [median(step[rank].wait_ns / 1e6 for step in seen) for rank in range(4)]
    for what, each in (("computed", work), ("waited in messages", wait)):
        print(
            f"   experts of ranks 0 to 3 {what} {', '.join(f'{ms:.1f}' for ms in each)} ms a step"
        )
asked = [40, 10, 10, 10, 10, 20, 20, 8]
room = places(64, experts=8, top_k=2, factor=1.25)
answer("dropped", my_guess_dropped, dropped(asked, room),
       f"The even share is 16, so {room} have a place: all 20 beyond them are of the first expert.")  # fmt: skip

# %%
# NBVAL_CHECK_OUTPUT
print(f"{asked}: fullest / mean {imbalance(asked)}, room for {room}, dropped"
      f" {dropped(asked, room)} of {sum(asked)}, {dropped(asked, room) / sum(asked):.1%}")  # fmt: skip
for name, done in routers.items():
    assert done.parity < 1e-6, f"{name}: {done.parity} from one process"
    m, seen = done.plan.model, [r for r in done.view.routing.rows if r.step == 0]
    lost, every = done.view.routing.dropped(step=0)
    if m.router == "capacity":  # a rank has one sequence, so its counts are that sequence's
        c = places(128, experts=16, top_k=2, factor=m.capacity)
        assert lost == sum(dropped(row.asked, c) for row in seen), "not what the loads say"
    full = loads(done.view.routing, step=0, layer=0)
    print(f"{name}: {lost} of {every} dropped ({lost / every:.1%}), rows a rank {full.rank_loads}")
told = tokens(routers["leaning, expert choice"].view.routing, step=0, layer=0)
print(f"expert choice: nobody took {sum(not t.choices for t in told)} of the {len(told)} tokens"
      f" that were told, one has {max(len(t.choices) for t in told)} experts")  # fmt: skip
chance = drop_rate(even(16, 2), 128, places(128, experts=16, top_k=2, factor=1.25))
print(f"tokens that choose by even chances, each for itself, would drop {chance:.2%}")
print("tokens an expert, capacity factor: published % beside the tail of a Poisson")
for row in quoted.drops():
    if row.quoted >= 1 and row.what.startswith(("8 ", "64 ")):
        print(f"   {row.what}: {row.quoted:.2f} beside {row.ours:.2f}")

# %% [markdown]
# ## Explain: drop, wait, or balance
#
# A buffer of $C$ places has one shape whatever the router does; that is what capacity was invented for. A token that finds no place
# skips the layer: it keeps its residual, and nothing else. If tokens chose by chance, the loads would be nearly Poisson, and a factor of
# 1.25 would lose a per cent or two; the published rates are just that ([`capacity.py`](../parallel_core/expert/capacity.py)). Your
# newborn router lost ten times as much, *without* leaning: tokens of one text are alike, and alike they choose. **Dropless** loses
# nothing and lets the step wait: see your clocks, where without a cure one rank computed and three stood still. **Expert choice** is even by construction, but some tokens get nobody, and an expert that picks
# among all positions of a sequence has looked at the future, which a model that writes cannot do.
#
# So balance the router. The **auxiliary loss** $E\sum_e f_eP_e$ is 1 when all is even; it works, and its gradient disturbs what the
# model learns. The **bias** enters the choice but not the weight of the result, and no gradient at all (DeepSeek-V3). Capacity,
# expert choice and auxiliary loss look at one sequence at a time here, so that no layout changes what is dropped.
#
# ## Run: bytes, and what hides them
#
# The same layer by all-to-all and by all-gather on four real ranks, by turns, for several $k$. Then a pipeline of two stages whose
# layers have experts, under 1F1B and under DualPipe, which lays one microbatch's forward over another's backward.

# %%
compare = [bench.plans_of(ep=4, seq=64, top_k=k, skew=0.0)[0] for k in (1, 2, 4, 8)]
raced = bench.measure(compare, bench.Race(rounds=3), lambda said: None)
pipes = {
    schedule: run(pp=2, dp=2, ep=2, experts=8, schedule=schedule, microbatches=4, layers=4, hidden=64,
                  heads=4, seq=128, global_batch=16, steps=3, quiet=True)
    for schedule in ("1f1b", "dualpipe")
}  # fmt: skip
for case in raced.settings["cases"]:
    pair = raced.rows[f"{case['name']}: all-to-all / all-gather"]
    print(
        f"{case['name']}: all-to-all {pair.median:.2f} times as fast, {pair.low:.2f} to {pair.high:.2f}"
    )
link = Link(2e-5, 1e8)  # made up: 20 µs, 100 MB/s, and a device for each rank
for schedule, done in pipes.items():
    on_wire = shares(done.plan, done.view.own_device(link), [0] * 4, 2)
    on_wall = shares(done.plan, done.trace, [0] * 4, 2)
    print(f"{schedule}, replayed over {link}:", hidden_in_words(on_wire).replace("*", ""))
    print(
        f"   as your machine ran it: {sum(s.hidden_ns for s in on_wall) / sum(s.open_ns for s in on_wall):.0%}"
    )
answer("k from which all-gather sends no more", my_guess_k, 4,
       "k (R-1)/R copies of a token against R-1: they meet at k = R.")  # fmt: skip
answer(
    "too large", my_guess_times, 4, "It has seen the tokens of 4 ranks and was divided by 1: by ep."
)

# %%
# NBVAL_CHECK_OUTPUT
print(
    "bytes that left the rank that sent most; 16 experts, 256 tokens, 4 ranks, forward + backward"
)
for case in raced.settings["cases"]:
    two = {side: max(sizes) for side, sizes in case["bytes_sent"].items()}
    print(f"   k={case['top_k']}:", ", ".join(f"{side} {size:,}" for side, size in two.items()),
          f"(all-to-all {case['bytes_sent_if_even']:,.0f} if even)")  # fmt: skip
for schedule, done in pipes.items():
    assert done.parity < 1e-6, f"{schedule}: {done.parity} from one process"
    under = shares(done.plan, done.view.own_device(link), [0] * 4, 2)
    part = sum(s.hidden_ns for s in under) / sum(s.open_ns for s in under)
    print(f"{schedule}: some of the all-to-all under other work, {part > 0}")
print("loads of step 2 place the experts, step 3 judges; fullest / mean, and ranks a token visits")
then, later = (record.loads(step=step, layer=0) for step in (2, 3))
chosen_by = routing_of(tokens(record, step=2, layer=0), 2)[0]
for cure in cures(then, later, 4, 1, chosen_by):
    print(f"   {cure.name}: {imbalance(cure.then):.2f}, {cure.gain:.2f}; {cure.visits:.2f}")
near = run(**model, expert_groups=4, group_limit=1, steps=1)
routes = routing_of(tokens(near.view.routing, step=0, layer=0), 2)[0]
print(
    "node-limited to one group of four: ranks a token visits,", ranks_visited(static(16, 4), routes)
)
print("DeepSeek-V3's layer on 64 ranks, copies of a token from node to node, by even chances:")
print("  ", ", ".join(f"{how} {copies:.2f}" for how, copies in quoted.node_limit().items()))
grid = Ted(world=8, tp=2, ep=2)
print("tensor x expert x data, rank 6 of 8:", grid.place(6))
for drop in (False, True):
    sent = grid.sent(1024, 2, 256, drop=drop)
    print(
        f"   duplicates dropped, {drop}:", {axis: int(size) for axis, size in sent.items()}, "bytes"
    )

# %% [markdown]
# ## Explain: fewer bytes, hidden bytes, better places
#
# An all-to-all sends a copy for each choice that is elsewhere, $k\frac{R-1}R$; an all-gather sends $R-1$ whatever the router does,
# and needs no counts. They cross at **$k=R$** (your counts have
# all-gather's gates in them besides). With $k=8$ on four ranks it is the all-to-all that wastes: two experts of a token
# on one rank get two copies. Sending **once a rank** (or once a node, and there once a rank) mends that: never more than all-gather
# ([`traffic.py`](../parallel_core/expert/traffic.py)). A *node limit* makes it a rule that a token visits few nodes.
#
# What remains must hide. Under 1F1B a microbatch's experts cannot begin before its dispatch ends, and the rank has nothing else to
# do: nothing hides. **DualPipe** has a forward *and* a backward at hand, from both ends of the pipeline: while the tokens of one
# travel, the other computes ([`pipeline_pieces.py`](../parallel_core/pipeline_pieces.py)). It pays with two copies of the weights.
#
# And experts need not lie where they were put. Copies of the hot ones in a few spare slots
# ([`replication.py`](../parallel_core/expert/replication.py)) even out the ranks, as long as tomorrow's loads are like today's; it
# beats moving them about, for one expert may be more than a rank's share. Grouping those that fire together
# ([`grouping.py`](../parallel_core/expert/grouping.py)) spares visits, but pulls the other way: what fires together is hot together.
#
# ## Predict and run: what may wait on the host, what may go early
#
# Most experts rest, so let them rest on the host, and keep a few on the device. A run of three layers, as above: rank 0 has four
# experts of each, and room for 6 of the 12. A step touches all twelve on its way forward, and again, in reverse, on its way back.
# Keep those used last (**LRU**); or know the future, and throw out what is needed again last (**Belady**). Of 24 touches, how many
# find their expert there, by LRU, by Belady? And in a server, which only ever goes forward: of 12 touches, by LRU?
# Lastly, tokens could leave *before* the router speaks, to where a guess says. A rank that was not guessed gets its copy late;
# one that was guessed wrongly got bytes for nothing. Three guesses: `popular`, the layer's favourites
# so far; `repeated`, what the token at that place chose a step ago; `following`, what came most often after the experts it chose a
# layer before. What share of the copies could the best of them have sent in time?
#
# **Modelled on measured routing**: the run routes on real ranks and moves no expert and no early copy; what either would move is
# reckoned from its record. Bytes are those of bf16 weights, float32 gradients, master copy and two moments.

# %%
my_guess_lru = 12  # change me: touches of 24 that find their expert
my_guess_best = 18  # change me: the same if you know the future
my_guess_forward = 6  # change me: of 12, forward only, by LRU
my_guess_early = 0.9  # change me: share of copies that left in time, best guess

deep = run(**{**model, "layers": 3}, dtype="float64", steps=6, parity=False).view.routing
rows_of_0, weighs = expert_ahead.used(deep, 0), expert_ahead.weighs(deep.plan)
print("experts of rank 0 that a step used:", (rows_of_0 > 0).sum((1, 2)), "of 12")
print(f"one expert: {weighs.weights:,} bytes of weights, {weighs.gradient:,} of gradient,"
      f" {weighs.state:,} of state")  # fmt: skip
kept_here = expert_ahead.held(rows_of_0, [1, 3, 6, 9, 12], weighs)
for buffer in kept_here:
    print(
        f"room for {buffer.size}: hits in training {buffer.lru} by LRU, {buffer.best} by Belady of"
        f" {buffer.touches}; forward only {buffer.once_lru}, {buffer.once_best} of {buffer.touches // 2}"
    )
    print(
        f"   bytes a step, state on the host: weights in {buffer.fetched:,.0f}, gradients out"
        f" {buffer.returned:,.0f}; state travels: in {buffer.travels[0]:,.0f}, out {buffer.travels[1]:,.0f}"
    )
    assert buffer.lru == buffer.best, "a way back mirrors the way there: nothing beats LRU"
early = expert_ahead.early(deep)
for how, got in early.items():
    print(f"guess {how}: {got.hit_rate:.0%} of {got.wanted} copies were there; {got.wasted_bytes:,} bytes"
          f" for nothing, {got.sent_bytes:,} sent, {got.wanted * got.bytes_a_copy:,} without")  # fmt: skip
six, told_steps = kept_here[2], len(deep.steps)
answer("hits by LRU", my_guess_lru, six.lru / told_steps,
       "What is there at the turn is what comes first on the way back: 6.")  # fmt: skip
answer("hits by Belady", my_guess_best, six.best / told_steps,
       "At the turn no more than 6 can be there, and nothing else is touched twice.")  # fmt: skip
answer("forward only", my_guess_forward, six.once_lru / told_steps,
       "LRU throws out just what comes next in a circle.")  # fmt: skip
answer("left in time", my_guess_early, max(got.hit_rate for got in early.values()),
       "Tokens at one place differ from step to step; what follows an expert is steadier.")  # fmt: skip

# %% [markdown]
# A server goes round in a circle, and there LRU throws out just what comes next; Belady finds nearly as many as it has room for. A training step turns round, and
# at the turn the last used is the next needed: **LRU is the best there is**. But the host pays all the same: it updates *every*
# weight each step, so what the device kept is old, and a gradient goes out for each expert used, however many have room. Let the
# state travel along and the buffer lives on: little to move if nearly all have room, by far the most if few do
# ([`buffering.py`](../parallel_core/expert/buffering.py)). A guess changes when bytes leave and how many, never what is computed;
# look whether the best of yours was also the one that wasted least ([`speculation.py`](../parallel_core/expert/speculation.py)).
# The tokens are those told one by one, 64 a rank.
#
# ## Exercise
#
# Five formulas against the package and *your* runs; then a router that leans and must be cured **without dropping a token**: in the
# last 8 of 24 steps the fullest rank has at most 1.6 times the mean. Last, a placement for your own loads: at most 5 experts a
# rank, the fullest at most 1.1 times the mean.


# %%
def home(expert, experts, ranks):
    """The rank that holds an expert, neighbours together."""
    raise NotImplementedError


def lost(counts, factor):
    """(fullest / mean, choices dropped) where each expert takes `factor` times the mean, rounded up."""
    raise NotImplementedError


def handed_over(sent_rows, got_rows, width):
    """Bytes a rank hands over in a step of one layer: both messages, forward and backward."""
    raise NotImplementedError


def copies(way, k, ranks):
    """Copies of a token that leave its rank, by even chances: "all-to-all" or "all-gather"."""
    raise NotImplementedError


def too_large(dp, ep):
    """How many times too large an expert's gradient is, averaged over the ranks that hold it."""
    raise NotImplementedError


def my_balance():
    """Fields for run() that cure a leaning router, as in {"balance": "aux", "aux_loss": 0.01}."""
    raise NotImplementedError


def my_placement(counts):
    """Where experts with these loads lie: a Placement on 4 ranks."""
    raise NotImplementedError


# %% tags=["raises-exception"]
for experts, ranks in ((16, 4), (8, 2), (64, 8)):
    found = [home(e, experts, ranks) for e in range(experts)]
    assert found == [r for (r,) in static(experts, ranks).holders], f"{experts} on {ranks}: {found}"
for counts, truth in ((asked, (2.5, 20)), ([9, 9, 1, 1], (1.8, 4))):
    assert lost(counts, 1.25) == truth, f"of {counts} {truth}, not {lost(counts, 1.25)}"
of_run = routers["leaning, capacity"].view.routing
both = [lost(row.asked, 1.25) for row in of_run.rows if row.step == 0]  # one sequence a rank
assert sum(gone for _, gone in both) == of_run.dropped(step=0)[0], "your run dropped others"
for rank in range(4):  # of your own run, all its steps
    total = 0
    for step in range(4):
        sends = sum(sum(r.kept) for r in record.rows if (r.step, r.rank) == (step, rank))
        total += handed_over(sends, received(record, step=step)[rank], width)
    assert total == handed(record, counted)[rank][1], f"rank {rank} handed over something else"
for k, ranks in ((1, 4), (2, 4), (8, 4), (8, 64)):
    between = Spread(experts=64, top_k=k, ranks=ranks, node=ranks)
    for way, how in (("all-to-all", "flat"), ("all-gather", "all-gather")):
        truth = dispatch_bytes(between, how, 1, Width(1, 1)).inside
        assert abs(copies(way, k, ranks) - truth) < 1e-9, f"{way}, k={k}, {ranks} ranks: {truth}"
for case in raced.settings["cases"]:
    rest = 4 * 64 * 128 * 4  # four messages, 64 tokens a rank, 128 numbers of 4 bytes
    gates = 2 * 3 * 64 * 16 * 4  # all-gather's gates, and their gradient
    assert (
        rest * copies("all-gather", case["top_k"], 4) + gates == case["bytes_sent"]["all-gather"][0]
    )
for dp, ep in ((4, 4), (8, 2), (64, 8), (4, 1)):
    truth = dp / Ted(world=dp, tp=1, ep=ep).expert_data
    assert too_large(dp, ep) == truth, f"dp={dp}, ep={ep}: {truth}"
mine = run(**lean, **my_balance(), steps=24, parity=False)
late = [step["rank_imbalance"] for step in mine.report["experts"]["steps"][-8:]]
assert mine.plan.model.skew == 0.3 and mine.plan.ep == 4, "that is another router"
assert not any(step["dropped"] for step in mine.report["experts"]["steps"]), "tokens were dropped"
assert mine.plan.model.router == "dropless", "a token may not go without its experts"
assert sum(late) / 8 <= 1.6, f"the fullest rank has {sum(late) / 8:.2f} times the mean"
heavy = loads(cured["none"].view.routing, step=0, layer=0).kept
for counts in (then, later, heavy):
    placed = my_placement(counts)
    whole = isinstance(placed, Placement) and placed.ranks == 4 and placed.experts == 16
    assert whole, f"{placed} is no Placement of 16 experts on 4 ranks"
    assert max(len(slots) for slots in placed.slots) <= 5, f"{placed.slots}: 5 slots a rank"
    gain = imbalance(rank_loads(placed, counts))
    assert gain <= max(1.1, imbalance(rank_loads(replicating(counts, 4, 5), counts))), (
        f"the fullest rank has {gain:.2f} times the mean"
    )
print(f"All true. {mine.plan.model.balance}: {late[0]:.2f} to {late[-1]:.2f} times the mean")


# %% tags=["solution"] jupyter={"source_hidden": true}
def home(expert, experts, ranks):
    """The rank that holds an expert, neighbours together."""
    return expert // (experts // ranks)


def lost(counts, factor):
    """(fullest / mean, choices dropped) where each expert takes `factor` times the mean, rounded up."""
    mean = sum(counts) / len(counts)
    room = -int(-factor * mean // 1)
    return max(counts) / mean, sum(max(count - room, 0) for count in counts)


def handed_over(sent_rows, got_rows, width):
    """Bytes a rank hands over in a step of one layer: both messages, forward and backward."""
    return 2 * (sent_rows + got_rows) * width


def copies(way, k, ranks):
    """Copies of a token that leave its rank, by even chances: "all-to-all" or "all-gather"."""
    return k * (ranks - 1) / ranks if way == "all-to-all" else ranks - 1


def too_large(dp, ep):
    """How many times too large an expert's gradient is, averaged over the ranks that hold it."""
    return ep


def my_balance():
    """A bias with a small step: a large one swings from side to side."""
    return {"balance": "bias", "bias_rate": 0.003}


def my_placement(counts):
    """A spare slot a rank, for copies of the hot ones."""
    return replicating(counts, 4, 5)


# %%
for experts, ranks in ((16, 4), (8, 2), (64, 8)):
    found = [home(e, experts, ranks) for e in range(experts)]
    assert found == [r for (r,) in static(experts, ranks).holders], f"{experts} on {ranks}: {found}"
for counts, truth in ((asked, (2.5, 20)), ([9, 9, 1, 1], (1.8, 4))):
    assert lost(counts, 1.25) == truth, f"of {counts} {truth}, not {lost(counts, 1.25)}"
of_run = routers["leaning, capacity"].view.routing
both = [lost(row.asked, 1.25) for row in of_run.rows if row.step == 0]  # one sequence a rank
assert sum(gone for _, gone in both) == of_run.dropped(step=0)[0], "your run dropped others"
for rank in range(4):  # of your own run, all its steps
    total = 0
    for step in range(4):
        sends = sum(sum(r.kept) for r in record.rows if (r.step, r.rank) == (step, rank))
        total += handed_over(sends, received(record, step=step)[rank], width)
    assert total == handed(record, counted)[rank][1], f"rank {rank} handed over something else"
for k, ranks in ((1, 4), (2, 4), (8, 4), (8, 64)):
    between = Spread(experts=64, top_k=k, ranks=ranks, node=ranks)
    for way, how in (("all-to-all", "flat"), ("all-gather", "all-gather")):
        truth = dispatch_bytes(between, how, 1, Width(1, 1)).inside
        assert abs(copies(way, k, ranks) - truth) < 1e-9, f"{way}, k={k}, {ranks} ranks: {truth}"
for case in raced.settings["cases"]:
    rest = 4 * 64 * 128 * 4  # four messages, 64 tokens a rank, 128 numbers of 4 bytes
    gates = 2 * 3 * 64 * 16 * 4  # all-gather's gates, and their gradient
    assert (
        rest * copies("all-gather", case["top_k"], 4) + gates == case["bytes_sent"]["all-gather"][0]
    )
for dp, ep in ((4, 4), (8, 2), (64, 8), (4, 1)):
    truth = dp / Ted(world=dp, tp=1, ep=ep).expert_data
    assert too_large(dp, ep) == truth, f"dp={dp}, ep={ep}: {truth}"
mine = run(**lean, **my_balance(), steps=24, parity=False)
late = [step["rank_imbalance"] for step in mine.report["experts"]["steps"][-8:]]
assert mine.plan.model.skew == 0.3 and mine.plan.ep == 4, "that is another router"
assert not any(step["dropped"] for step in mine.report["experts"]["steps"]), "tokens were dropped"
assert mine.plan.model.router == "dropless", "a token may not go without its experts"
assert sum(late) / 8 <= 1.6, f"the fullest rank has {sum(late) / 8:.2f} times the mean"
heavy = loads(cured["none"].view.routing, step=0, layer=0).kept
for counts in (then, later, heavy):
    placed = my_placement(counts)
    whole = isinstance(placed, Placement) and placed.ranks == 4 and placed.experts == 16
    assert whole, f"{placed} is no Placement of 16 experts on 4 ranks"
    assert max(len(slots) for slots in placed.slots) <= 5, f"{placed.slots}: 5 slots a rank"
    gain = imbalance(rank_loads(placed, counts))
    assert gain <= max(1.1, imbalance(rank_loads(replicating(counts, 4, 5), counts))), (
        f"the fullest rank has {gain:.2f} times the mean"
    )
print(f"All true. {mine.plan.model.balance}: {late[0]:.2f} to {late[-1]:.2f} times the mean")
