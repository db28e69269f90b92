"""Which models of experts Mixtral's names and config can tell: what may be saved, told early."""

from __future__ import annotations

from parallel_core.choices import Balance, RouterKind, Score
from parallel_core.fields import PlanError
from parallel_core.model_shape import Dialect, ModelShape


def named_by_mixtral(model: ModelShape) -> None:
    """PlanError for weights of a model of experts that Mixtral has no names for."""
    for name, usual in (("dialect", Dialect.LLAMA), ("shared_experts", 0)):
        if (value := getattr(model, name)) != usual:
            rule = "has no names to save experts under: Mixtral's are llama's, none of them shared"
            raise PlanError(name, value, rule, usual)


def computes_as_mixtral(model: ModelShape) -> None:
    """PlanError for a model of experts that a MixtralForCausalLM of its weights would not be."""
    named_by_mixtral(model)
    works = {
        "router": (RouterKind.DROPLESS,),
        "score": (Score.SOFTMAX,),
        "balance": (Balance.NONE, Balance.AUX),
        "skew": (0.0,),
        "group_limit": (None, model.expert_groups),
    }
    for name, good in works.items():
        if (value := getattr(model, name)) not in good:
            rule = "cannot be told in Mixtral's config: the weights would compute something else"
            raise PlanError(name, value, rule, "none" if good[0] is None else good[0])
    if model.top_k == 1:
        rule = "weighs one expert by its score, where Mixtral weighs it by 1"
        raise PlanError("top_k", 1, rule, 2)
