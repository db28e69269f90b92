# %% [markdown]
# # 5 · Data parallelism: sum the gradients while you make them
#
# Four processes hold the same model. Each reads its own share of the batch, so each ends the backward
# with a different gradient. Before the optimizer may step, the four must become one sum, on every rank.
# *When* to send is the whole art: a step that computes and then communicates pays for both, a step that
# does both at once may pay for one.
#
# In 25 minutes you will predict how much communication cannot be hidden, train on real processes both
# ways, and change one word of the program to see a proof fail. The page *Data parallel* of the app
# (`shardlab app`) has the same figures with knobs.

# %%
from IPython.display import display

from parallel_core.cases import program_of
from parallel_core.check import check
from parallel_core.data.bucketed import buckets
from parallel_core.data.overlap import (
    exposed_equal,
    fitted,
    gradient_bytes,
    ladder,
    messages_a_step,
)
from parallel_core.live import contest, on_one_link, run
from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.program import Lane, Op, Program, ProgramError
from parallel_core.prove import prove
from parallel_core.views.buckets import bucket_lanes, uncovered
from parallel_core.views.exposure import Dot, exposure_curve
from parallel_core.views.marks import typical_step
from parallel_core.views.race import race

# %% [markdown]
# ## Predict: how much communication stays exposed?
#
# The backward takes **100 ms** and completes the gradients evenly. Sending all of them takes **60 ms**.
# You cut them into $K$ equal buckets and send each as soon as it is complete, in order, while the
# backward goes on. *Exposed* is what is still under way when the backward is over: the optimizer waits
# for it. There is more time to hide in than there is to hide, so: how many ms for $K=6$? For $K=1$?

# %%
my_guess_k6 = 0  # change me: milliseconds exposed with six buckets
my_guess_k1 = 0  # change me: milliseconds exposed with one

# %% [markdown]
# ## Run: two methods, four processes each
#
# *Naive* finishes the backward, then sums one parameter after another. *Bucketed* is what DDP does. The
# model, its start and its text are the same.

# %%
naive = run(dp=4, steps=5, dp_method="naive")
bucketed = run(dp=4, steps=5, dp_method="bucketed", bucket_mb=1.0)
print(naive, bucketed, sep="\n")

# %% [markdown]
# ## See
#
# First the step itself, every rank with its comm lane under its compute lane; switch the clock to *own
# device* to see it as if your cores were not shared. Then one rank alone, with a lane for each bucket.
# Filled boxes happened; dashed outlines are modelled, and the model was fitted from this same run: it
# describes, it does not foretell.
#
# Then both methods on one axis, with own devices. To compare them fairly both are replayed over *one*
# link, fitted to both runs: with a link each, the noise of the minutes between them would count as a
# victory. If the links fitted alone are too far apart, nobody is called the winner. The wall clock's
# ratio stands beside it: there the ranks share your cores, and what is hidden on own devices may cost.

# %%
display(bucketed)
display(bucket_lanes(bucketed.own, model=bucketed.model))
both = contest(bucketed=bucketed, naive=naive)
display(race(both.own, called=both.called))
print(f"{both.headline}.\n{both.words}")

# %%
# NBVAL_CHECK_OUTPUT
names = units(bucketed.plan.model)
for plan in ladder(bucketed.plan):
    cut = [" ".join(names[u] for u in bucket) for bucket in buckets(plan)]
    print(f"{plan.bucket_mb:5.3f} MiB, K={len(cut)}: {' | '.join(cut)}")
print()
params = sum(gradient_bytes(bucketed.plan))
for name, done in (("naive", naive), ("bucketed", bucketed)):
    sent = done.wire_bytes / (4 * 5)  # four ranks, five steps
    print(
        f"{name:8} {messages_a_step(done.plan):2} messages, a rank sends {sent / params:.2f} gradients"
    )

# %% [markdown]
# ## Explain: the last bucket can never hide
#
# Bucket $j$ of $K$ is complete at $jT_b/K$, and the comm lane works in order. So either the lane keeps
# up, and only the last bucket is left when the backward ends; or it falls behind, and all that the
# backward could not cover is left ([`data/overlap.py`](../parallel_core/data/overlap.py) has the proof):
#
# $$\text{exposed} = \max\left(\frac{T_c}{K},\; T_c - T_b\left(1 - \frac1K\right)\right)$$
#
# The last bucket holds the *first* layers of the model, whose gradients come last: nothing is left to
# compute behind which it could hide. More buckets make it smaller, but each message has a latency $L$,
# so $T_c = KL + W$ grows. One bucket hides nothing; one a parameter is all latency.
#
# Bytes do not depend on any of this. An all-reduce is a reduce-scatter and an all-gather, so each rank
# sends $2\frac{n-1}{n}\Psi$ elements, about $2\Psi$, however they are cut: 1.5 gradients for four ranks,
# as your run counted.

# %% [markdown]
# ## See: the law of *your* machine
#
# Your guesses first. Then three more runs, from a bucket a unit down to a single one, and all five again
# over one link. $L$ and $W$ are fitted to what all five spent on communication. Real buckets are not equal (a layer is not cut in two), so your dots need not
# sit on the curve for equal ones; the latencies of processes that share a core are rough, too.

# %%
print(f"You said {my_guess_k6} ms for six buckets, it is {exposed_equal(100, 60, 6):.0f} ms;")
print(f"and {my_guess_k1} ms for one, it is {exposed_equal(100, 60, 1):.0f} ms.")
small = {"dp": 4, "steps": 3, "parity": False, "quiet": True}
runs = [naive, bucketed, *(run(**small, bucket_mb=mb) for mb in (0.125, 2.0, 1000.0))]
runs = on_one_link(runs)
uses = [each.use() for each in runs]
sent = [(messages_a_step(r.plan), u.comm / 1e3) for r, u in zip(runs, uses, strict=True)]
law = fitted(uses[1].backward / 1e3, sent)
dots = [
    Dot(
        messages=messages_a_step(each.plan),
        exposed=spent.exposed,
        kind=each.own.kind,
        overlaps=each.plan.dp_method != "naive",
        hover=f"{each.plan.layout}: {spent.exposed:.1f} of {spent.comm:.1f} ms exposed",
    )
    for each, spent in zip(runs, uses, strict=True)
]
badges = [f"dots: {runs[1].own.provenance.badge}", "model: dashed, fitted from these runs"]
display(exposure_curve(law, dots, badges=badges))
print(f"latency {law.latency * 1e3:.2f} ms a message, all bytes {law.wire * 1e3:.1f} ms")

# %% [markdown]
# ## Explain: summed once, divided once
#
# Every rank divides its loss by the number of tokens in the *global* batch, so the gradients need a sum
# and nothing else; dividing by the rank's own tokens and averaging is right only while all ranks have
# equally many. With microbatches a rank adds up its gradients first and sends only in the last one:
# the same bytes a step, but also only one microbatch's backward to hide them under.
#
# The step is data, so this can be proved on names alone, without running:
# [`prove.py`](../parallel_core/prove.py) follows each term (unit, rank, microbatch) and demands it exactly
# once before each optimizer. A famous bug sends a bucket after the first microbatch; the loss still
# falls. Here it is, by changing one index in the program's text.

# %%
# NBVAL_CHECK_OUTPUT
plan = Plan.of(dp=2, microbatches=2, layers=1, bucket_mb=0.5)
program = program_of(plan)
check(program)
print("\n".join(str(i) for i in program.ranks[0] if i.lane == Lane.COMM or i.op == Op.WAIT))
print(prove(program), "terms, each summed exactly once\n")
bucket1 = "all_reduce bucket1 @dp : "
broken = Program.parse(str(program).replace(f"{bucket1}grad[0,1]", f"{bucket1}grad[0,0]"))
for reader in (prove, check):
    try:
        reader(broken)
    except ProgramError as error:
        print(f"{reader.__name__}: {error}")

# %%
accumulated = run(dp=2, steps=3, microbatches=4, parity=False, quiet=True)
pairs = list(zip(bucketed.losses[:3], accumulated.losses, strict=True))
assert all(abs(one - other) < 1e-4 for one, other in pairs), "the layout must not change the loss"
print(f"max |parallel - single| = {bucketed.parity:.2g} over all gradients, in float32")
print("4 ranks x 1 microbatch and 2 ranks x 4 train alike, step by step:")
print("\n".join(f"  {one:.5f}  {other:.5f}" for one, other in pairs))

# %% [markdown]
# ## Exercise
#
# Three functions. The first is the formula, the second what a rank sends in an all-reduce. The third
# measures: from one rank's spans of one step (each has `op`, `lane`, `where` and `t_done`, in
# nanoseconds; the loss, a scalar, is a message too), how long after the end of the backward the last
# *gradient* was there. It is graded on your own run.


# %%
def exposed(t_b, t_c, k):
    """Milliseconds exposed with k equal buckets."""
    raise NotImplementedError


def sent_by_a_rank(elements, n):
    """Elements that one of n ranks sends to all-reduce `elements` of them."""
    raise NotImplementedError


def exposed_in(spans):
    """Nanoseconds from the end of the last backward to the end of the last gradient message."""
    raise NotImplementedError


# %% tags=["raises-exception"]
assert round(exposed(t_b=100, t_c=60, k=6)) == 10
assert round(exposed(t_b=100, t_c=60, k=1)) == 60
assert round(exposed(t_b=100, t_c=150, k=5)) == 70  # more to send than time to hide it
assert sent_by_a_rank(1_000_000, 4) == 1_500_000
for done in (naive, bucketed):
    step = done.own.only(typical_step(done.own))
    for rank in range(4):
        assert exposed_in(step.by_rank[rank]) == uncovered(step, rank) > 0
print("All true, and graded on your own run.")


# %% tags=["solution"] jupyter={"source_hidden": true}
def exposed(t_b, t_c, k):
    """Milliseconds exposed with k equal buckets."""
    return max(t_c / k, t_c - t_b * (1 - 1 / k))


def sent_by_a_rank(elements, n):
    """Elements that one of n ranks sends to all-reduce `elements` of them."""
    return 2 * (n - 1) / n * elements


def exposed_in(spans):
    """Nanoseconds from the end of the last backward to the end of the last gradient message."""
    backward = max(s.t_done for s in spans if s.op == "B")
    last = max(s.t_done for s in spans if s.lane == "comm" and s.where != "loss")
    return last - backward


# %%
assert round(exposed(t_b=100, t_c=60, k=6)) == 10
assert round(exposed(t_b=100, t_c=60, k=1)) == 60
assert round(exposed(t_b=100, t_c=150, k=5)) == 70  # more to send than time to hide it
assert sent_by_a_rank(1_000_000, 4) == 1_500_000
for done in (naive, bucketed):
    step = done.own.only(typical_step(done.own))
    for rank in range(4):
        assert exposed_in(step.by_rank[rank]) == uncovered(step, rank) > 0
print("All true, and graded on your own run.")
