"""Controls made from the declarations of a Plan's fields: one widget a field, its value in the URL.

The declaration (parallel_core/fields.py) gives default, range, choices and help, so a rule stands
in one place; the command line reads the same one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

import streamlit as st

from parallel_core.fields import PlanError, parse
from parallel_core.plan import Plan, flat_fields
from parallel_core.request import Request

WORDS = {
    "dp": "Ranks (data parallel)",
    "dp_method": "Gradient sum",
    "bucket_mb": "Bucket, MiB",
    "zero": "ZeRO stage",
    "shard": "Ranks a shard group",
    "prefetch": "Units gathered ahead",
    "clip": "Largest gradient norm",
    "staleness_bound": "Staleness bound",
    "pace_ms": "Pace, ms",
    "tp": "Ranks (tensor parallel)",
    "sp": "Sequence parallel",
    "overlap_tp": "Overlap gathers",
    "recompute_every": "Recompute every k-th",
    "cp": "Ranks (context parallel)",
    "cp_method": "Attention across ranks",
    "ulysses": "Ranks that deal out heads",
    "overlap_cp": "Overlap hops",
    "ep": "Ranks (expert parallel)",
    "experts": "Experts a layer",
    "top_k": "Experts a token",
    "router": "Router",
    "score": "Score",
    "balance": "Balance by",
    "capacity": "Capacity factor",
    "shared_experts": "Shared experts",
    "aux_loss": "Weight of the balance loss",
    "bias_rate": "Step of the bias",
    "z_loss": "Weight of the z-loss",
    "expert_groups": "Groups of experts",
    "group_limit": "Groups a token may reach",
    "skew": "Lean of the router",
    "offload": "Offload to host",
    "pp": "Ranks (pipeline)",
    "rank_order": "Neighbours, inside out",
    "microbatches": "Microbatches",
    "global_batch": "Sequences a step",
    "seq": "Tokens a sequence",
    "hidden": "Model width",
    "kv_heads": "Key/value heads",
    "ffn": "MLP width",
    "vocab": "Vocabulary",
    "dtype": "Element type",
    "lr": "Learning rate",
}

EMPTY = {"clip": "any", "staleness_bound": "none", "pace_ms": "none",
         "cap": "all", "shard": "all of dp", "group_limit": "all"}  # fmt: skip
"""What an empty number field means, where nothing is derived from other fields."""


def plan_controls(
    names: Sequence[str],
    key: str = "",
    *,
    columns: int = 4,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One widget per named field of a Plan or a run; its value by field name.

    The widget's key is the field's name (with `key.` before it if `key` is given), and so is its
    name in the URL. `defaults` replaces the declared defaults of this page. A value in the URL
    that the field refuses is told in one sentence and replaced by the default.
    """
    chosen = {}
    for position, name in enumerate(names):
        if position % columns == 0:  # a row of its own: on a phone, and for Tab, by rows
            places = st.columns(columns, vertical_alignment="bottom")
        spec = declared()[name]
        default = (defaults or {}).get(name, spec.default)
        with places[position % columns]:
            chosen[name] = _widget(spec, _key(key, name), default)
    return chosen


def declared() -> dict[str, Field[Any]]:
    """Every field a control can be made of: a plan's, and those of a run (`steps`)."""
    return {**flat_fields(), **{f.name: f for f in fields(Request) if f.metadata}}


def plan(values: Mapping[str, Any], key: str = "") -> Plan | None:
    """The Plan of these values; or None, after its one sentence and a button that mends it.

    `key` is the one given to `plan_controls`.
    """
    try:
        return Plan.of(**values)
    except PlanError as error:
        complain(error, key, mend=error.field in values)
        return None


def request(values: Mapping[str, Any], key: str = "") -> Request | None:
    """The run of these values, if this machine bears it; or None, said in the same way."""
    try:
        return Request.of(**values).checked()
    except PlanError as error:
        complain(error, key, mend=error.field in values)
        return None


def plain(text: str) -> str:
    r"""The text so that Markdown shows it as it is: its marks are escaped.

    >>> plain("dp*microbatches=4*1")
    'dp\\*microbatches=4\\*1'
    """
    return re.sub(r"[\\`*_\[\]$~<>]", r"\\\g<0>", text)


def sentence(text: str) -> str:
    """The text with a capital and a full stop, and no Markdown in it.

    >>> sentence("a step takes 3 ms in B layer1")
    'A step takes 3 ms in B layer1.'
    """
    return plain(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))


def complain(error: PlanError, key: str = "", *, mend: bool = True) -> None:
    """The error's sentence, and a button that takes the nearest value that works."""
    st.error(plain(f"{error}."))
    if mend:
        st.button(
            f"Use {error.field}={error.nearest}",
            key=_key(key, f"mend_{error.field}"),
            on_click=_take,
            args=(_key(key, error.field), error.nearest),
        )


def _take(widget: str, value: object) -> None:
    st.session_state[widget] = None if value == "none" else value


def _key(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _widget(spec: Field[Any], key: str, default: Any) -> Any:
    """The widget a field's declaration asks for."""
    _refuse_nonsense(spec, key)
    meta = spec.metadata
    label = WORDS.get(spec.name, spec.name.replace("_", " ").capitalize())
    common = {"key": key, "help": meta["help"], "bind": "query-params"}
    if "choices" in meta:
        words = [str(word) for word in meta["choices"]]
        return st.selectbox(label, words, index=words.index(str(default)), **common)
    if meta["kind"] is bool:
        return st.toggle(label, value=bool(default), **common)
    if meta["kind"] is str:
        return st.text_input(label, value=default, placeholder="none", **common)
    as_kind = meta["kind"]
    return st.number_input(
        label,
        min_value=as_kind(meta["low"]),
        max_value=as_kind(meta["high"]),
        value=None if default is None else as_kind(default),
        step=1 if as_kind is int else None,
        format=None if as_kind is int else "%g",
        placeholder=EMPTY.get(spec.name, "derived"),
        **common,
    )


def _refuse_nonsense(spec: Field[Any], key: str) -> None:
    """Say why a value typed into the URL is not taken; Streamlit drops it without a word."""
    if key in st.session_state or key not in st.query_params:
        return
    try:
        parse(spec, st.query_params[key])
    except PlanError as error:
        st.error(plain(f"In the address: {error}. The default is used instead."))
        del st.query_params[key]
