# %% [markdown]
# # 5 · Data parallelism: sum the gradients, or do not wait for the sum
#
# Four processes hold the same model. Each reads its own share of the batch, so each ends the backward with a different
# gradient. What happens then is the whole of data parallelism. A **parameter server** may take each gradient as it comes and
# update the weights at once: nobody waits, and everybody computes with weights that are already old. Or the four gradients
# become one sum, on every rank, before anybody steps; then the art is *when* to send.
#
# In 25 minutes you will predict how old a gradient is and how much communication cannot be hidden, train on real
# processes both ways, and change one word of the program to see a proof fail. The page *Data parallel* of the app
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
from parallel_core.data.parameter_server import order_of, staleness
from parallel_core.live import contest, on_one_link, run
from parallel_core.params import units
from parallel_core.plan import Plan
from parallel_core.program import Lane, Op, Program, ProgramError
from parallel_core.prove import prove
from parallel_core.views.buckets import bucket_lanes, uncovered
from parallel_core.views.exposure import Dot, exposure_curve
from parallel_core.views.marks import typical_step
from parallel_core.views.race import race
from parallel_core.views.staleness import account, histogram

# %% [markdown]
# ## Predict: how old is a gradient?
#
# A server holds the weights. Each of **four** workers reads them, computes a gradient, hands it in, and the server updates at
# once; the worker reads again and goes on. While it computes, others hand in theirs: its gradient is for weights that are so
# many updates old, its **staleness**. With four equal workers, how old is a gradient on average? Now one of them takes
# **three times** as long: how old on average over all, how old are the slow one's, how old the others'?

# %%
my_guess_equal = 1.0  # change me: mean staleness, four equal workers
my_guess_mean, my_guess_slow, my_guess_others = 5.0, 3.0, 1.0  # change me: one takes 3x as long

# %%
served = {
    "dp": 4,
    "steps": 12,
    "pace_ms": 100,
    "parity": False,
    "layers": 2,
    "hidden": 64,
    "seq": 64,
}
even = run(**served, parameter_server="async")
uneven = run(**served, parameter_server="async", speeds="1,1,1,3")
in_step = run(**served, parameter_server="sync", speeds="1,1,1,3")
told, seen = (staleness(each, 4) for each in (order_of((1, 1, 1, 3), 48), uneven.view.updates))
names = {0: "worker 0", 1: "worker 1", 2: "worker 2", 3: "worker 3, 3 times as slow"}
badges = [uneven.trace.provenance.badge, "dashed: simulated, speeds 1 1 1 3"]
display(histogram(told, seen, names=names, badges=badges))
mean = even.report["staleness"]["mean"]
print(f"You said {my_guess_equal} for equal workers: 3; in your run {mean:.2f}.")
print(f"With a straggler {my_guess_mean}, {my_guess_slow} and {my_guess_others}: 3, 9 and 2.3.")
print("In your run, warm-up and end left out:")
print(account(told, seen, names))
for name, done in (("asynchronous", uneven), ("in step", in_step)):
    took, losses = done.trace.makespan / 1e9, done.losses
    print(f"{name}: 48 gradients in {took:.1f} s, loss {losses[0]:.2f} to {losses[-1]:.2f}")

# %%
# NBVAL_CHECK_OUTPUT
for speeds in ((1, 1, 1, 1), (1, 1, 1, 3), (1, 2, 3, 4)):
    found = staleness(order_of(speeds, 4000), 4)
    ages = ", ".join(f"{age:.1f}" for age in found.by_worker)
    print(f"gradients take {speeds}: mean staleness {found.mean:.1f}; by worker {ages}")
for bound in (None, 4, 0):
    updates = order_of((1, 1, 1, 3), 4000, bound=bound)
    found, rate = staleness(updates, 4), 4000 / updates[-1].seconds
    print(f"straggler, bound {bound}: mean {found.mean:.1f}, {rate:.1f} updates in a beat")

# %% [markdown]
# ## Explain: staleness is handed out, not made
#
# At any moment each of the $W$ workers has a gradient under way. An update uses up one of them and makes each of the other $W-1$ one
# update older. So every update hands out $W-1$ units of age, whatever the speeds, and the mean over all gradients is **$W-1$**.
# A straggler does not change it; it *moves* it. In the time of one of its gradients the three others make three each: it is **nine**
# updates old. Ten updates in that time are $\frac{10}3$ in a third of it; without its own, a fast worker's gradient is $\frac73$ or
# **2.3** old, and $\frac{1\cdot9 + 9\cdot\frac73}{10} = 3$. (At the end of a run, when no more are asked for, the last ones see fewer others.)
#
# Your run shows the good side: from as many gradients 48 updates instead of 12, in less than half of the time if your machine kept
# the pace. But an old gradient points where the weights no longer are, and with many workers or a large learning rate that does
# harm. **In step** nothing is stale, and all wait for the slowest. A **bound** on how far a worker may be ahead evens out delays
# that pass; of a worker that is always slow the others soon stand at the bound, and take its pace. And whatever the order, all
# gradients and weights pass the server's one wire, $2W\Psi$ a round, where an all-reduce sends $2\Psi$ a rank. So data parallelism
# today is an all-reduce ([`parameter_server.py`](../parallel_core/data/parameter_server.py) has the other way).
#
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
# ## Run, and see: two methods, four processes each
#
# *Naive* finishes the backward, then sums one parameter after another. *Bucketed* is what DDP does. First its step, every rank with
# its comm lane under its compute lane; switch the clock to *own device* to see it as if your cores were not shared. Then one rank
# alone, with a lane for each bucket. Filled boxes happened; dashed outlines are modelled, and fitted from this same run.
#
# Then both methods on one axis, replayed over *one* link, fitted to both runs: with a link each, the noise of the minutes between
# them would count as a victory. The wall clock's ratio stands beside it: there the ranks share your cores, and what is hidden on own
# devices may cost.

# %%
naive = run(dp=4, steps=5, dp_method="naive")
bucketed = run(dp=4, steps=5, dp_method="bucketed", bucket_mb=1.0)
print(naive, bucketed, sep="\n")
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
# Bytes do not depend on any of this: a rank sends $2\frac{n-1}{n}\Psi$ elements however they are cut, 1.5 gradients for four ranks,
# as your run counted.
#
# ## See: the law of *your* machine
#
# Your guesses first. Then three more runs, from a bucket a unit down to a single one, and all five again over one link. $L$ and $W$
# are fitted to what all five spent on communication. Real buckets are not equal (a layer is not cut in two), so your dots need not
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
accumulated = run(dp=2, steps=3, microbatches=4, parity=False, quiet=True)
pairs = list(zip(bucketed.losses[:3], accumulated.losses, strict=True))
assert all(abs(one - other) < 1e-4 for one, other in pairs), "the layout must not change the loss"
assert bucketed.parity < 1e-5, "the sum of four must be the gradient of one process"
print("4 ranks x 1 microbatch and 2 ranks x 4 train alike, step by step")

# %% [markdown]
# ## Explain: summed once, divided once
#
# Every rank divides its loss by the number of tokens in the *global* batch, so the gradients need a sum and nothing else; dividing
# by the rank's own tokens and averaging is right only while all ranks have equally many. With microbatches a rank adds up its
# gradients first and sends only in the last one: the same bytes a step, but also only one microbatch's backward to hide them under.
#
# The step is data, so this can be proved on names alone: [`prove.py`](../parallel_core/prove.py) follows each term (unit, rank,
# microbatch) and demands it exactly once before each optimizer. The broken program sends a bucket after the first microbatch, a
# famous bug: the loss still falls.
#
# ## Exercise
#
# Four functions. The first is about the server: from the order in which workers updated it, how old each gradient was. Then the
# formula; what a rank sends in an all-reduce; and, from one rank's spans of one step (each has `op`, `lane`, `where` and `t_done`, in
# nanoseconds; the loss, a scalar, is a message too), how long after the end of the backward the last *gradient* was there. The
# first and the last are graded on your own runs.


# %%
def staleness_of(order):
    """Of each update its gradient's age in updates; order is the worker of each update."""
    raise NotImplementedError


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
for done in (even, uneven):  # an update makes three gradients one older
    ages = staleness_of(done.report["replay_order"])
    assert ages == [update.staleness for update in done.view.updates], done.report["replay_order"]
    assert sum(ages) == 3 * len(ages) - 6, "the last three, two, one and none were alone"
    assert abs(sum(ages) / len(ages) - 3) < 0.2, "the mean is W - 1, whatever the speeds"
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
def staleness_of(order):
    """Of each update its gradient's age in updates; order is the worker of each update."""
    read, ages = {}, []  # how many updates the weights had when a worker last read them
    for updates, worker in enumerate(order):
        ages.append(updates - read.get(worker, 0))
        read[worker] = updates + 1
    return ages


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
for done in (even, uneven):  # an update makes three gradients one older
    ages = staleness_of(done.report["replay_order"])
    assert ages == [update.staleness for update in done.view.updates], done.report["replay_order"]
    assert sum(ages) == 3 * len(ages) - 6, "the last three, two, one and none were alone"
    assert abs(sum(ages) / len(ages) - 3) < 0.2, "the mean is W - 1, whatever the speeds"
assert round(exposed(t_b=100, t_c=60, k=6)) == 10
assert round(exposed(t_b=100, t_c=60, k=1)) == 60
assert round(exposed(t_b=100, t_c=150, k=5)) == 70  # more to send than time to hide it
assert sent_by_a_rank(1_000_000, 4) == 1_500_000
for done in (naive, bucketed):
    step = done.own.only(typical_step(done.own))
    for rank in range(4):
        assert exposed_in(step.by_rank[rank]) == uncovered(step, rank) > 0
print("All true, and graded on your own run.")
