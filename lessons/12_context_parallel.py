# %% [markdown]
# # 12 · Context parallelism: ring, zigzag, Ulysses
#
# A sequence can be too long for one rank: what its layers keep grows with every token. So cut the *sequence*. Norms, MLPs and
# losses look at one token at a time and never notice. Attention does: a token must see the keys and values of all tokens before it,
# and most of them now lie elsewhere. **Context parallelism** is the ways to bring them together.
#
# In 25 minutes you will predict who is idle, train with six methods on four real processes, see the hops as they were stamped, and
# write the sum that lets a rank attend to keys block by block. The page *Context ring* of the app (`shardlab app`) has the knobs.

# %%
import torch
from IPython.display import HTML, display
from torch.nn.functional import scaled_dot_product_attention

from parallel_core.context import METHODS
from parallel_core.context.layout import Layout, in_step, work
from parallel_core.fields import PlanError
from parallel_core.live import run
from parallel_core.plan import Plan
from parallel_core.views import context_plans, context_quoted, context_stamps
from parallel_core.views.context_clock import Clock
from parallel_core.views.context_ring import figure
from parallel_core.views.marks import typical_step

# %% [markdown]
# ## Predict: four ranks, one causal sequence
#
# Cut the sequence into four chunks, the first for rank 0, the last for rank 3. Queries stay; keys and values go round a ring, one
# rank further each hop. A *tile* is a chunk of queries against a chunk of keys; under a causal mask a query sees only the keys up to
# itself. How many tiles does each rank compute? (On the diagonal it is half a tile.) Now give each rank *two* eighths, one early and
# one late: rank r gets eighths r and 7 - r. That is **zigzag**. How many times as fast does the ring get, if every hop waits for its
# slowest rank? And **Ulysses** makes no ring at all: it trades a part of the sequence for a part of the heads. With 8 heads, over how
# many ranks at most?

# %%
my_guess_tiles = [2.0, 2.0, 2.0, 2.0]  # change me: of ranks 0 to 3
my_guess_times = 1.0  # change me: contiguous over zigzag
my_guess_ranks = 64  # change me: Ulysses, 8 heads

# %% [markdown]
# ## Run: six methods, the same four ranks
#
# `cp` is how many ranks a sequence is cut over, `cp_method` how they attend. Each run is compared with one process that has the whole
# sequence. Below, who computes which tile: the colour is the rank, the number the hop. Under the map, the race.

# %%
model = {"layers": 2, "hidden": 64, "heads": 8, "seq": 128, "global_batch": 2, "steps": 3, "quiet": True}
runs = {name: run(cp=4, cp_method=name, **model) for name in METHODS}
plan = runs["ring"].plan
ring, zigzag = (
    Clock(method=name, shape=context_plans.shape_of(plan, name)) for name in ("ring", "zigzag")
)
display(HTML(figure(ring, [])), HTML(figure(zigzag, [ring, zigzag])))

# %%
# NBVAL_CHECK_OUTPUT
for clock in (ring, zigzag):
    hops = [[float(tiles) for tiles in row] for row in work(clock.shape.layout)]
    print(f"{clock.method:7} hop by hop {hops}")
    print(f"{'':7} in all {list(clock.totals)}, the ring takes {clock.total:g}")
print(f"contiguous over zigzag: {ring.total / zigzag.total:g} times")
eight = [in_step(work(Layout(seq=64, ranks=8, zigzag=cut))) for cut in (False, True)]
print(f"and on 8 ranks: {float(eight[0] / eight[1]):g}")
print("equal to one process that has the whole sequence:")
for name, done in runs.items():
    assert done.parity < 1e-5, f"{name} does not compute what one process does"
    print(f"  {name:10}within 1e-5, {done.parity < 1e-5}")

# %% [markdown]
# ## Explain: half the work, and not half the time
#
# The mask blanks half the matrix. Cut contiguously, the *first* rank is done after half a tile: nothing stands before its tokens. The
# last rank has a whole tile at every hop but one, and the ring ends when it does: $N - \frac12$. All that the mask saved was idle time.
#
# Zigzag pairs an early eighth with a late one, so that everybody has half a tile at *every* hop: $N/2$ in all. The ratio is
# $(N-\frac12)/(N/2) = 2 - 1/N$. Nothing else changes: not the bytes, not the number of messages. What must change with it is the
# position of each token, for RoPE and for the mask
# ([`layout.py`](../parallel_core/context/layout.py): who holds what, who meets whom).

# %% [markdown]
# ## See: the hops of your own run
#
# Each rank stamped when it posted a hop and when it had waited for it. A backward of the zigzag ring, all four ranks. Keys go
# round again; their *gradients* follow one hop behind.

# %%
trace = runs["zigzag"].trace
step = trace.only(typical_step(trace))
display(context_stamps.figure(context_stamps.tasks(step, "B", "layer0"), step))
print(f"You said {my_guess_tiles} tiles, {my_guess_times} times, {my_guess_ranks} ranks.")

# %%
# NBVAL_CHECK_OUTPUT
for way in ("F", "B"):
    task = context_stamps.tasks(step, way, "layer0")[0]
    found = [f"{stamp.what} {stamp.number}" for stamp in context_stamps.stamps(task)]
    print(f"{way}: {', '.join(found)}")
print("bytes that a rank sends for one layer: forward, backward; both counted")
for one in context_plans.traffic(plan, {}):
    counted = context_plans.counted(runs[one.method].report, runs[one.method].plan)
    assert counted == one.total, f"{one.method}: {counted} counted, {one.total} predicted"
    print(f"  {one.method:10}{one.sent[0]:9,}{one.sent[1]:9,}{counted:11,.0f}")
for ranks in (4, 8, 16):
    try:
        found = Plan.of(cp=ranks, cp_method="ulysses", heads=8, hidden=64).layout
    except PlanError as error:
        found = str(error)
    print(f"Ulysses on {ranks}: {found}")

# %% [markdown]
# ## Explain: what each method pays
#
# An **all-gather** and a **ring** bring the same bytes, one at once, the other in $N-1$ hops that can hide behind tiles. In the
# backward the gradient of a block of keys collects what every rank adds to it, and must come home: $N$ hops, one more than the keys
# make ([`ring.py`](../parallel_core/context/ring.py)). **Pass-Q** sends the queries round instead. With few key/value heads that is
# *more*; with a long cache and few new tokens it is less. But its results must come home, and nothing hides that.
#
# **Ulysses** sends $4Nh/P$ a link, less the more ranks there are, and wants a head for each: `heads >= ranks`. The **hybrid** deals
# out heads inside a node and runs a ring around it. Below, the published crossover of pass-Q and pass-KV: the dots are quoted.

# %%
display(context_quoted.crossover())
print(context_quoted.in_words())

# %% [markdown]
# ## Exercise
#
# Softmax over all keys needs the sum over all keys. A rank of a ring meets them block by block. What makes it work: with each result
# `a` it keeps `lse`, the log of the sum of exponents that `a` was divided by. `merge` takes two such pairs over *different* keys and
# returns the pair over both. `holds` says which of $2n$ chunks a rank has under zigzag. With both, the check below computes causal
# attention as a ring does, and your own runs lie as `holds` says. `my_layout` is for a model of **2 heads** on **4 ranks**, where
# Ulysses alone is refused: fields for `run()` under which a rank sends at most **60 %** of what it sends in the zigzag ring.


# %%
def merge(a, lse, b, lse_b):
    """a[S, K] with lse[S] over some keys, b and lse_b over others -> the same over both sets."""
    raise NotImplementedError


def holds(rank, n):
    """The two of 2n chunks that a rank of n has under zigzag, the earlier one first."""
    raise NotImplementedError


def my_layout():
    """Fields for run(), as in {"cp_method": "zigzag"}."""
    raise NotImplementedError


# %% tags=["raises-exception"]
def attend(q, k, v, seen):
    """Attention to the keys that are seen, [S, T]: the result and its lse."""
    scores = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse[:, None]).exp() @ v, lse


for n in (2, 4, 8):
    assert sorted(c for rank in range(n) for c in holds(rank, n)) == list(range(2 * n)), "each chunk once"
    sizes = [sum(c + 0.5 for c in holds(rank, n)) for rank in range(n)]
    assert len(set(sizes)) == 1, f"on {n} ranks the work is {sizes}"
for rank in range(4):  # your zigzag run: 128 tokens, chunks of 16
    mine = [16 * chunk + i for chunk in holds(rank, 4) for i in range(16)]
    assert mine == list(runs["zigzag"].plan.context.positions(rank)), f"rank {rank} holds others"
torch.manual_seed(0)
n, size, q, k, v = 4, 4, *torch.randn(3, 32, 8, dtype=torch.float64)
whole = scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
place = [torch.tensor([size * c + i for c in holds(rank, n) for i in range(size)]) for rank in range(n)]
for rank in range(n):
    rows, out, lse = place[rank], None, None
    for hop in range(n):  # the keys of the rank before, and the one before that
        cols = place[(rank - hop) % n]
        came, lse_came = attend(q[rows], k[cols], v[cols], rows[:, None] >= cols)
        some = lse_came > -torch.inf  # rows that see one of these keys at least
        if hop == 0:
            out, lse = came, lse_came
        else:
            out[some], lse[some] = merge(out[some], lse[some], came[some], lse_came[some])
    error = (out - whole[rows]).abs().max().item()
    assert error < 1e-12, f"rank {rank} is off by {error:.1e} after {n} hops"
high = torch.tensor([1e4, -1e4], dtype=torch.float64)
kept, _ = merge(torch.zeros(2, 1).double(), high, torch.ones(2, 1).double(), -high)
assert kept.flatten().tolist() == [0.0, 1.0], "large scores must not overflow"
few = {**model, "heads": 2}
best = run(cp=4, **few, **my_layout())
least = context_plans.counted(best.report, best.plan)
usual = next(one for one in context_plans.traffic(best.plan, {}) if one.method == "zigzag").total
assert best.parity < 1e-5 and best.plan.cp == 4
assert least <= 0.6 * usual, f"{least / usual:.0%} of the zigzag ring's bytes"
print(f"All true. {best.plan.layout}: {least:,.0f} bytes, {least / usual:.0%} of the ring's.")


# %% tags=["solution"] jupyter={"source_hidden": true}
def merge(a, lse, b, lse_b):
    """a[S, K] with lse[S] over some keys, b and lse_b over others -> the same over both sets."""
    weight = torch.sigmoid(lse_b - lse)[:, None]
    return a - weight * (a - b), torch.logaddexp(lse, lse_b)


def holds(rank, n):
    """The two of 2n chunks that a rank of n has under zigzag, the earlier one first."""
    return rank, 2 * n - 1 - rank


def my_layout():
    """One head a rank inside a pair, and a ring of two pairs around it."""
    return {"cp_method": "hybrid", "ulysses": 2}


# %%
def attend(q, k, v, seen):
    """Attention to the keys that are seen, [S, T]: the result and its lse."""
    scores = (q @ k.T / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse[:, None]).exp() @ v, lse


for n in (2, 4, 8):
    assert sorted(c for rank in range(n) for c in holds(rank, n)) == list(range(2 * n)), "each chunk once"
    sizes = [sum(c + 0.5 for c in holds(rank, n)) for rank in range(n)]
    assert len(set(sizes)) == 1, f"on {n} ranks the work is {sizes}"
for rank in range(4):  # your zigzag run: 128 tokens, chunks of 16
    mine = [16 * chunk + i for chunk in holds(rank, 4) for i in range(16)]
    assert mine == list(runs["zigzag"].plan.context.positions(rank)), f"rank {rank} holds others"
torch.manual_seed(0)
n, size, q, k, v = 4, 4, *torch.randn(3, 32, 8, dtype=torch.float64)
whole = scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
place = [torch.tensor([size * c + i for c in holds(rank, n) for i in range(size)]) for rank in range(n)]
for rank in range(n):
    rows, out, lse = place[rank], None, None
    for hop in range(n):  # the keys of the rank before, and the one before that
        cols = place[(rank - hop) % n]
        came, lse_came = attend(q[rows], k[cols], v[cols], rows[:, None] >= cols)
        some = lse_came > -torch.inf  # rows that see one of these keys at least
        if hop == 0:
            out, lse = came, lse_came
        else:
            out[some], lse[some] = merge(out[some], lse[some], came[some], lse_came[some])
    error = (out - whole[rows]).abs().max().item()
    assert error < 1e-12, f"rank {rank} is off by {error:.1e} after {n} hops"
high = torch.tensor([1e4, -1e4], dtype=torch.float64)
kept, _ = merge(torch.zeros(2, 1).double(), high, torch.ones(2, 1).double(), -high)
assert kept.flatten().tolist() == [0.0, 1.0], "large scores must not overflow"
few = {**model, "heads": 2}
best = run(cp=4, **few, **my_layout())
least = context_plans.counted(best.report, best.plan)
usual = next(one for one in context_plans.traffic(best.plan, {}) if one.method == "zigzag").total
assert best.parity < 1e-5 and best.plan.cp == 4
assert least <= 0.6 * usual, f"{least / usual:.0%} of the zigzag ring's bytes"
print(f"All true. {best.plan.layout}: {least:,.0f} bytes, {least / usual:.0%} of the ring's.")
