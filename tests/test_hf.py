"""Saved files load in Hugging Face transformers and compute the same model there."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from parallel_core.hf import config, from_hf, save_batch, save_grads, save_weights, to_hf
from parallel_core.model import Place, Transformer, init_weights, loss_sum
from parallel_core.oracle import relative_error, train
from parallel_core.params import units
from parallel_core.plan import Plan, PlanError
from parallel_core.text import Sampler

SMALL = Plan.of(hidden=32, layers=2, heads=4, seq=16, global_batch=4, dtype="float64", vocab=256)
SHAPES = {
    "llama mha": SMALL,
    "llama gqa tied": SMALL.but(kv_heads=2, tied=True),
    "llama mqa": SMALL.but(kv_heads=1, ffn=40),
    "gpt": SMALL.but(dialect="gpt", seed=3),
    "gpt tied": SMALL.but(dialect="gpt", tied=True, ffn=48),
    "mixtral": SMALL.but(experts=4, ffn=24, kv_heads=2),
    "mixtral tied, 3 of 6": SMALL.but(experts=6, top_k=3, ffn=24, tied=True, balance="aux"),
    "mixtral, all of 2": SMALL.but(experts=2, ffn=40, kv_heads=1, z_loss=0.1),
}
every_shape = pytest.mark.parametrize("plan", SHAPES.values(), ids=SHAPES)


def _weights(plan):
    """Weights that have been trained a little, so that no bias is zero and no norm is one."""
    return train(plan.but(lr=0.01), 2).params


def _ours(plan, weights):
    model = Transformer(plan)
    model.load_state_dict(weights)
    batch = Sampler(plan).batch(0)
    x, labels = torch.from_numpy(batch.ids), torch.from_numpy(batch.labels)
    place = Place(0, 0, torch.arange(4), torch.arange(plan.seq))
    for moe in model.routers.values():
        moe.owed = []  # what a router's own losses would add: theirs has none
    for unit in units(plan.model):
        x = model.forward_unit(unit, x, place)
    (loss_sum(x, labels) / labels.numel()).backward()
    return x.detach(), {name: w.grad for name, w in model.named_parameters()}


def _theirs(plan, folder, dtype):
    from transformers import AutoModelForCausalLM

    how = {"attn_implementation": "sdpa"}
    if plan.model.experts and dtype is torch.float64:
        how["experts_implementation"] = "eager"  # their one kernel for all experts has no float64
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **how)
    batch = Sampler(plan).batch(0)
    labels = torch.from_numpy(batch.labels)
    logits = model(torch.from_numpy(batch.ids)).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    grads = {name: w.grad for name, w in model.named_parameters()}
    return logits.detach(), _as_in_files(grads) if plan.model.experts else grads


def _as_in_files(grads):
    """Mixtral's names in files, from those in memory, where gate and up of all experts are one."""
    found = {}
    for name, grad in grads.items():
        at = name.rpartition(".mlp.")[0] + ".block_sparse_moe"
        if name.endswith("mlp.gate.weight"):
            found[f"{at}.gate.weight"] = grad
        elif name.endswith("gate_up_proj"):
            for e, (gate, up) in enumerate(each.chunk(2) for each in grad):
                found[f"{at}.experts.{e}.w1.weight"] = gate
                found[f"{at}.experts.{e}.w3.weight"] = up
        elif name.endswith("experts.down_proj"):
            found |= {f"{at}.experts.{e}.w2.weight": down for e, down in enumerate(grad)}
        else:
            found[name] = grad
    return found


def _wide_rms_norm(monkeypatch):
    """Theirs narrows to float32 inside RMSNorm, whatever the dtype; the formula, kept wide. So does
    their router's softmax."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm, MixtralTopKRouter

    def route(self, x):
        logits = torch.nn.functional.linear(x.reshape(-1, self.hidden_dim), self.weight)
        best = logits.softmax(-1).topk(self.top_k, dim=-1)
        return logits, best.values / best.values.sum(-1, keepdim=True), best.indices

    def forward(self, x):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * x

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    monkeypatch.setattr(MixtralRMSNorm, "forward", forward)
    monkeypatch.setattr(MixtralTopKRouter, "forward", route)


@every_shape
def test_logits_and_gradients_are_theirs_in_float64(plan, tmp_path, monkeypatch):
    """Every logit and every gradient tensor, under their names, to 1e-11."""
    _wide_rms_norm(monkeypatch)
    weights = _weights(plan)
    save_weights(tmp_path, weights, plan)
    logits, grads = _ours(plan, weights)
    their_logits, their_grads = _theirs(plan, tmp_path, torch.float64)
    torch.testing.assert_close(logits, their_logits, rtol=1e-12, atol=1e-12)
    assert relative_error(to_hf(grads, plan.model), their_grads) < 1e-11


@every_shape
def test_logits_and_gradients_are_theirs_in_float32(plan, tmp_path):
    """Their code untouched, in the dtype config.json names."""
    plan = plan.but(dtype="float32")
    weights = _weights(plan)
    save_weights(tmp_path, weights, plan)
    logits, grads = _ours(plan, weights)
    their_logits, their_grads = _theirs(plan, tmp_path, "auto")
    assert their_logits.dtype is torch.float32
    torch.testing.assert_close(logits, their_logits, rtol=1e-5, atol=1e-5)
    assert relative_error(to_hf(grads, plan.model), their_grads) < 1e-5


@every_shape
def test_names_round_trip(plan):
    """from_hf undoes to_hf, for any tensors of these shapes; a tied head is written once."""
    model = Transformer(plan)
    init_weights(model, plan)
    weights = {name: torch.randn_like(w) for name, w in model.named_parameters()}
    theirs = to_hf(weights, plan.model)
    assert ("lm_head.weight" in theirs) is not plan.model.tied
    back = from_hf(theirs, plan.model)
    assert back.keys() == weights.keys()
    for name, w in weights.items():
        torch.testing.assert_close(back[name], w, rtol=0, atol=0)


def test_nothing_is_missing_or_left_over_when_it_loads(tmp_path):
    """transformers reports no missing, unexpected or mismatched tensor, and reads the sizes."""
    from transformers import AutoModelForCausalLM

    for i, plan in enumerate(SHAPES.values()):
        folder = tmp_path / str(i)
        save_weights(folder, _weights(plan), plan)
        model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values()), report
        assert (
            type(model).__name__
            == json.loads((folder / "config.json").read_text())["architectures"][0]
        )
        assert model.config.tie_word_embeddings is plan.model.tied
        assert model.config.max_position_embeddings == plan.seq
        assert sorted(f.name for f in folder.iterdir()) == ["config.json", "model.safetensors"]


EXPERTS = SMALL.but(experts=4, ffn=24)
OTHERS = {
    "dialect": EXPERTS.but(dialect="gpt"),
    "shared_experts": EXPERTS.but(shared_experts=1),
    "router": EXPERTS.but(router="capacity"),
    "score": EXPERTS.but(score="sigmoid"),
    "balance": EXPERTS.but(balance="bias"),
    "skew": EXPERTS.but(skew=2.0),
    "group_limit": EXPERTS.but(expert_groups=2, group_limit=1),
    "top_k": EXPERTS.but(top_k=1),
}


@pytest.mark.parametrize(("field", "plan"), OTHERS.items(), ids=OTHERS)
def test_experts_that_compute_as_no_mixtral_are_no_mixtral(field, plan):
    """The sentence names what it would take, and that works."""
    with pytest.raises(PlanError, match="Mixtral") as error:
        config(plan)
    assert error.value.field == field
    nearest = None if field == "group_limit" else error.value.nearest
    assert config(plan.but(**{field: nearest}))["model_type"] == "mixtral"


def test_gradients_of_any_llamas_experts_have_names():
    """Whatever the router: a file of gradients says nothing of how a model computes."""
    plan = EXPERTS.but(router="capacity", score="sigmoid", balance="bias", dtype="float32")
    run = train(plan, 1)
    names = to_hf(run.grads, plan.model)
    assert names["model.layers.1.block_sparse_moe.experts.3.w2.weight"].shape == (32, 24)
    assert names["model.layers.0.block_sparse_moe.gate.weight"].shape == (4, 32)
    assert not any(".moe." in name for name in names)
    for other in (EXPERTS.but(dialect="gpt"), EXPERTS.but(shared_experts=2)):
        with pytest.raises(PlanError, match="no names"):
            to_hf(run.grads, other.model)


def test_dropout_is_written_where_gpt_2_reads_it(tmp_path):
    """The three dropouts of GPT2Config are the plan's one."""
    from transformers import AutoConfig

    plan = SHAPES["gpt"].but(dropout=0.25)
    save_weights(tmp_path, _weights(plan), plan)
    read = AutoConfig.from_pretrained(tmp_path)
    assert (read.embd_pdrop, read.attn_pdrop, read.resid_pdrop) == (0.25, 0.25, 0.25)


@every_shape
def test_gradient_files_have_the_names_and_shapes_of_weight_files(plan, tmp_path):
    """Tensor by tensor, so that a reader can lay one over the other."""
    run = train(plan, 1)
    save_weights(tmp_path, run.params, plan)
    save_grads(tmp_path / "grads.safetensors", run.grads, plan)
    weights = load_file(tmp_path / "model.safetensors")
    grads = load_file(tmp_path / "grads.safetensors")
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in grads.items()}
    assert relative_error(from_hf(grads, plan.model), run.grads) == 0


def test_a_batch_file_says_that_its_labels_are_shifted(tmp_path):
    """int64 tensors, exactly those of the sampler."""
    batch, file = Sampler(SMALL).batch(0), tmp_path / "deep" / "batch.safetensors"
    save_batch(file, batch.ids, batch.labels)
    read = load_file(file)
    assert torch.equal(read["input_ids"], torch.from_numpy(batch.ids))
    assert torch.equal(read["labels"], torch.from_numpy(batch.labels))
    with safe_open(file, "pt") as opened:
        assert "already shifted" in opened.metadata()["labels"]
