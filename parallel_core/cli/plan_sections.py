"""`--help` in sections: a plan has some seventy fields, and a reader comes with one question.

Each field of a plan stands in the section of what it chooses; a command's own options come behind
them, under a title of its own. The examples stand first, since most readers copy one.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

import click

SECTIONS: dict[str, tuple[str, ...]] = {
    "Data parallelism": ("dp", "dp_method", "bucket_mb"),
    "ZeRO": ("zero", "shard", "prefetch", "keep_gathered"),
    "Parameter server": ("parameter_server", "staleness_bound", "speeds", "pace_ms"),
    "Tensor and sequence parallelism": ("tp", "sp", "overlap_tp"),
    "Pipeline": ("pp", "schedule", "virtual_stages", "stage_layers", "cap", "order"),
    "Context parallelism": ("cp", "cp_method", "ulysses", "overlap_cp"),
    "Experts": (
        *("experts", "ep", "ep_node", "top_k", "router", "score", "capacity", "shared_experts"),
        *("balance", "aux_loss", "bias_rate", "z_loss", "expert_groups", "group_limit", "skew"),
    ),
    "Mesh": ("rank_order",),
    "Memory": ("recompute", "recompute_every", "offload"),
    "Model": (
        *("dialect", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "tied", "dropout"),
        *("attention", "block"),
    ),
    "Training": (
        *("steps", "global_batch", "microbatches", "seq", "dtype", "optimizer", "moments", "lr"),
        *("clip", "seed"),
    ),
}
"""Title -> fields of a plan, in the order in which they are told; `steps` is a run's."""

EXAMPLES = "\b\nExamples:"

COLUMN = 32
"""Where meanings begin: the same in every section, whatever its flags."""


class Sectioned(click.Command):
    """A command whose `--help` tells its options by section; `rest` is the title of its own.

    An option that a section names is in it, whoever declares it; the others are the rest. Every
    flag begins in one column and every meaning in another, so that the eye runs down the page.
    """

    def __init__(self, *args: Any, rest: str = "Options", **more: Any) -> None:
        super().__init__(*args, **more)
        self.rest = rest

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What it does in a sentence, examples to copy, then the rest of the story."""
        told = self.help or ""
        self.help = examples_first(told)
        try:
            super().format_help_text(ctx, formatter)
        finally:
            self.help = told

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, section by section."""
        options = self.get_params(ctx)
        records = {p.name: p.get_help_record(ctx) for p in options}
        for title, names in self.sections(filter(None, records)):
            rows = [row for row in map(records.get, names) if row]
            if rows:
                with formatter.section(title):
                    for flag, meaning in rows:
                        formatter.write(_told(flag, meaning, formatter))

    def sections(self, names: Iterable[str]) -> list[tuple[str, list[str]]]:
        """Which of these options stand in which section; none is left out or told twice."""
        left = dict.fromkeys(names)
        found = []
        for title, fields in SECTIONS.items():
            found.append((title, [name for name in fields if name in left]))
        placed = {name for _, fields in found for name in fields}
        return [*found, (self.rest, [name for name in left if name not in placed])]


def examples_first(told: str) -> str:
    """A help text with its examples behind its first paragraph.

    >>> examples_first("One.\\n\\nMore.\\n\\n\\b\\nExamples:\\n  a").split("\\n\\n")[-1]
    'More.'
    """
    paragraphs = inspect.cleandoc(told).split("\n\n")
    examples = [p for p in paragraphs if p.startswith(EXAMPLES)]
    others = [p for p in paragraphs if p not in examples]
    return "\n\n".join([*others[:1], *examples, *others[1:]])


def _told(flag: str, meaning: str, formatter: click.HelpFormatter) -> str:
    """A flag, and beside it what it means; no word is cut at a hyphen, no default from its name.

    click's own lists cut `tp-cp-dp-pp` in two, which nobody could copy then.
    """
    bound = meaning.replace("[default: ", "[default:\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(bound, max(formatter.width - COLUMN, 20), break_on_hyphens=False)
    left, column = f"{'':{formatter.current_indent}}{flag}", " " * COLUMN
    start = f"{left:{COLUMN}}" if len(left) + 2 <= COLUMN else f"{left}\n{column}"
    return (start + f"\n{column}".join(lines)).replace("\N{NO-BREAK SPACE}", " ") + "\n"
