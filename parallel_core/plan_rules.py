"""What a Plan refuses: every rule between its fields, each with the nearest value that works.

The range of a single field stands with its declaration (fields.py).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from parallel_core import plan_clashes, plan_mesh
from parallel_core.away import away
from parallel_core.choices import MOST_TASKS, NONE, OWN, Recompute, Server
from parallel_core.context import METHODS
from parallel_core.context.layout import Travels
from parallel_core.fields import PlanError, nearest_where, shown
from parallel_core.model_shape import AttentionKind
from parallel_core.pipeline.stages import split
from parallel_core.program import Op

if TYPE_CHECKING:
    from parallel_core.plan import Plan


def check(plan: Plan) -> None:
    """PlanError for the first rule that the plan breaks."""
    for rule in (
        plan_clashes.check,
        _batch,
        _sharding,
        _server,
        _context,
        _shard_groups,
        _tensor,
        _experts,
        _activations,
        _pipeline,
        _offloaded,
    ):
        rule(plan)


def _batch(plan: Plan) -> None:
    share, most = plan.dp * plan.microbatches, _highest(plan, "global_batch")
    if share > most:
        rule = f"times dp={plan.dp} must be at most {most:,} sequences"
        near = most // plan.dp
        near -= near % plan.pp if near > plan.pp else 0  # some schedules take them in groups
        raise PlanError("microbatches", plan.microbatches, rule, near)
    if plan.global_batch % share:
        near = min(max(round(plan.global_batch / share), 1), most // share) * share
        rule = f"must be a multiple of dp*microbatches={plan.dp}*{plan.microbatches}"
        raise PlanError("global_batch", plan.global_batch, rule, near)


def _highest(plan: Plan, name: str) -> int:
    return int(type(plan).__dataclass_fields__[name].metadata["high"])


def _highest_layers(plan: Plan) -> int:
    return int(type(plan.model).__dataclass_fields__["layers"].metadata["high"])


def _usual(plan: Plan, name: str) -> object:
    return type(plan).__dataclass_fields__[name].default


def _sharding(plan: Plan) -> None:
    if plan.shard is None:
        return
    if not plan.zero:
        raise PlanError("shard", plan.shard, "needs a ZeRO stage, zero=1 to 3", NONE)


def _shard_groups(plan: Plan) -> None:
    """Groups of shards divide the ranks whose gradients are summed, as all else does."""
    if plan.shard is None:
        return
    fits = [n for n in plan_mesh.shard_groups(plan) if n <= _highest(plan, "shard")]
    if plan.shard not in fits:
        ranks = f"dp*cp={plan.dp}*{plan.cp} ranks, whole sequences or parts of one"
        rule = f"must divide {ranks if plan.cp > 1 else f'dp={plan.dp}'}"
        raise PlanError("shard", plan.shard, rule, nearest_where(plan.shard, fits))


def _server(plan: Plan) -> None:
    if plan.parameter_server == Server.OFF:
        for name in ("staleness_bound", "speeds", "pace_ms"):
            if (value := getattr(plan, name)) is not None:
                raise PlanError(name, shown(value), "needs a parameter_server", NONE)
        return
    if plan.staleness_bound is not None and plan.parameter_server == Server.SYNC:
        rule = "says nothing of a synchronous server"
        raise PlanError("staleness_bound", plan.staleness_bound, rule, NONE)
    speeds(plan)


def speeds(plan: Plan) -> tuple[float, ...]:
    """How many times longer each worker's gradient takes, 1 where nothing is said."""
    if plan.speeds is None:
        return (1.0,) * plan.dp
    words = plan.speeds.split(",")
    near = ",".join(["1"] * plan.dp) if plan.dp <= 16 else NONE
    if len(words) != plan.dp:
        raise PlanError("speeds", shown(plan.speeds), f"must name dp={plan.dp} numbers", near)
    found = [_positive(word) for word in words]
    if None in found:
        raise PlanError("speeds", shown(plan.speeds), "must be numbers from 0.01 to 100", near)
    return tuple(number for number in found if number is not None)


def _positive(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if 0.01 <= number <= 100 else None


def _context(plan: Plan) -> None:
    if plan.cp == 1:
        for name in ("cp_method", "ulysses", "overlap_cp"):
            if (value := getattr(plan, name)) != (usual := _usual(plan, name)):
                rule = "needs context-parallel ranks, cp of 2 or more"
                raise PlanError(name, value, rule, NONE if usual is None else usual)
        return
    if plan.model.attention == AttentionKind.UNFUSED:
        rule = "writes out scores that no rank has whole under cp"
        raise PlanError("attention", plan.model.attention, rule, AttentionKind.FUSED)
    if plan.ulysses is not None and plan.cp_method != "hybrid":
        rule = "is a choice of cp_method=hybrid only"
        raise PlanError("ulysses", plan.ulysses, rule, NONE)
    if not plan.overlap_cp and METHODS[plan.cp_method].travels == Travels.NOTHING:
        rule = f"changes nothing: with cp_method={plan.cp_method} no hop could overlap"
        raise PlanError("overlap_cp", False, rule, True)
    _heads(plan)


def _heads(plan: Plan) -> None:
    """Ulysses deals out the heads of a rank; several ranks may hold one key/value head."""
    if plan.cp_method not in ("ulysses", "hybrid"):
        return
    heads, kv = max(plan.model.heads // plan.tp, 1), plan.kv_here

    def fits(u: int) -> bool:
        return heads % u == 0 and (kv % u == 0 or u % kv == 0)

    rule = f"must divide the {heads} heads of a rank, and fit its {kv} key/value heads"
    asked, name = plan.cp, "cp"
    if plan.cp_method == "hybrid":
        asked, name = plan.ulysses or 2, "ulysses"
        rule = f"must divide cp={plan.cp}, {rule.removeprefix('must divide ')}"
    least, most = (1, plan.cp) if name == "ulysses" else (2, 256)  # one rank trades with nobody
    good = [u for u in range(least, most + 1) if fits(u) and (name == "cp" or plan.cp % u == 0)]
    if not good:
        rule = f"needs a head for every rank of cp, and a rank has {heads}"
        raise PlanError("cp_method", plan.cp_method, rule, "zigzag")
    if asked not in good:
        raise PlanError(name, asked, rule, nearest_where(asked, good))


def _tensor(plan: Plan) -> None:
    if plan.tp == 1:
        if plan.sp:
            raise PlanError("sp", True, "needs tensor-parallel ranks, tp of 2 or more", False)
    else:
        m, fits = plan.model, [n for n in range(1, plan.tp + 1) if _tensor_fits(plan, n)]
        if plan.tp not in fits:
            cut = f", seq={plan.seq}" if plan.cp == 1 else f", a rank's {plan.seq_here} positions"
            sizes = f"heads={m.heads}, ffn={m.mlp}" + (cut if plan.sp else "")
            rule = f"must divide {sizes}, and kv_heads={m.kv} or be a multiple of it"
            raise PlanError("tp", plan.tp, rule, nearest_where(plan.tp, fits))
    if plan.overlap_tp and not plan.sp:
        rule = "needs sequence parallelism, sp=true: without it nothing is gathered"
        raise PlanError("overlap_tp", True, rule, False)


def _tensor_fits(plan: Plan, n: int) -> bool:
    m = plan.model
    whole = (m.heads, m.mlp, *([plan.seq_here] if plan.sp else []))
    return not any(size % n for size in whole) and (m.kv % n == 0 or n % m.kv == 0)


def _experts(plan: Plan) -> None:
    if plan.ep > 1 and not plan.model.experts:
        raise PlanError("ep", plan.ep, "needs experts to share out, as in experts=8", 1)
    if plan.ep == 1 and plan.ep_node is not None:
        raise PlanError("ep_node", plan.ep_node, "needs expert-parallel ranks, ep of 4", NONE)
    if plan.ep == 1 or not plan.model.experts:
        return
    fits = plan_mesh.expert_ranks(plan)
    if plan.ep not in fits:
        ranks = f"dp*cp={plan.dp}*{plan.cp} ranks" if plan.cp > 1 else f"dp={plan.dp}"
        rule = f"must divide experts={plan.model.experts} and {ranks}, whose neighbours share them"
        if plan.gradient_ranks == 1:
            rule = "takes its ranks from dp and cp, of which there is one: as in dp=4"
        raise PlanError("ep", plan.ep, rule, nearest_where(plan.ep, fits))
    if plan.shard is not None and plan.shard % plan.ep:
        fits = [n for n in range(plan.ep, plan.dp + 1, plan.ep) if plan.dp % n == 0]
        rule = f"must be a multiple of ep={plan.ep}, so that a group of shards has every expert"
        raise PlanError("shard", plan.shard, rule, nearest_where(plan.shard, fits or [plan.ep]))
    _nodes(plan)


def _nodes(plan: Plan) -> None:
    """Two hops want several nodes of several ranks each, cut as everything else is."""
    if plan.ep_node is None:
        return
    fits = [n for n in range(2, plan.ep) if plan.ep % n == 0 and _divides_with(plan, n)]
    if plan.ep_node not in fits:
        rule = f"must divide ep={plan.ep} into nodes, several of several ranks"
        near = nearest_where(plan.ep_node, fits) if fits else NONE
        raise PlanError("ep_node", plan.ep_node, rule, near)


def _divides_with(plan: Plan, node: int) -> bool:
    ways = {**plan_mesh.divisions(plan), "ep_in": (1, node), "ep_out": (node, plan.ep)}
    return plan_mesh.divides(ways)


def _activations(plan: Plan) -> None:
    if plan.recompute_every > 1 and plan.recompute == Recompute.NONE:
        rule = "needs something to recompute, recompute=selective or full"
        raise PlanError("recompute_every", plan.recompute_every, rule, 1)
    if plan.recompute_every > plan.model.layers:
        rule = f"must be at most layers={plan.model.layers}"
        raise PlanError("recompute_every", plan.recompute_every, rule, plan.model.layers)
    if plan.offload and plan.pp == 1 and plan.model.layers == 1:
        rule = "leaves nothing to offload: the last layer's backward follows at once"
        raise PlanError("layers", 1, rule, 2)


def _offloaded(plan: Plan) -> None:
    """Asked once the pipeline's order is known to be legal."""
    if not plan.offload or plan.pp == 1:
        return
    layers = split(plan.model.layers, plan.pipeline.stages, plan.stage_layers)
    for tasks in plan.pipeline.ranks:
        kept = [(t.op is Op.F, (t.mb, t.stage)) for t in tasks if t.op in (Op.F, Op.B, Op.I)]
        if any(layers[stage] for _, stage in away(kept)):
            return
    rule = "leaves nothing to offload: on every rank each layer's backward follows at once"
    raise PlanError("offload", True, rule, False)


def _pipeline(plan: Plan) -> None:
    if plan.pp == 1:
        for name in ("order", "schedule", "virtual_stages", "stage_layers", "cap"):
            if (value := getattr(plan, name)) != (usual := _usual(plan, name)):
                rule = "needs stages, pp of 2 or more"
                raise PlanError(name, shown(value), rule, NONE if usual is None else usual)
        return
    if plan.schedule == OWN and plan.order is None:
        raise PlanError("schedule", OWN, "needs the order itself in `order`", "1f1b")
    _size(plan)
    stages = plan.pipeline.stages
    if stages < 2 or plan.pipeline.p != plan.pp:
        rule = f"does not fit the {plan.pipeline.p} ranks of the order"
        raise PlanError("pp", plan.pp, rule, plan.pipeline.p)
    split(plan.model.layers, stages, plan.stage_layers)
    most = max(Counter(s for held in plan.pipeline.held for s in held).values())
    if most > 2:
        rule = f"puts a stage on {most} ranks; two copies of the weights are the most"
        raise PlanError("schedule", plan.schedule, rule, "dualpipe")


def _size(plan: Plan) -> None:
    """Not more stages than a model can fill, nor more tasks than are run."""
    stages = plan.pp * (plan.virtual_stages or 1)
    most = _highest_layers(plan) + 2  # embedding and head may stand alone
    if stages > most and plan.virtual_stages:
        rule = f"times pp={plan.pp} must be at most {most} stages: a model has no more to share out"
        raise PlanError("virtual_stages", plan.virtual_stages, rule, most // plan.pp)
    if stages * plan.microbatches > MOST_TASKS:
        _too_many_tasks(plan, stages)


def _too_many_tasks(plan: Plan, stages: int) -> None:
    """Microbatches in groups of pp, which every schedule takes, or fewer stages."""
    most = MOST_TASKS // stages
    if most >= plan.pp or not plan.virtual_stages:
        rule = f"times {stages} stages must be at most {MOST_TASKS:,} tasks to be run"
        near = most // plan.pp * plan.pp or max(most, 1)
        raise PlanError("microbatches", plan.microbatches, rule, near)
    rule = f"times pp={plan.pp} and {plan.pp} microbatches must be at most {MOST_TASKS:,} tasks"
    near = max(MOST_TASKS // plan.pp**2, 1)
    raise PlanError("virtual_stages", plan.virtual_stages, rule, near)
