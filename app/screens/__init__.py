"""The pages of the app, one module a page, each with a `page()`. This table is the sidebar."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st


@dataclass(frozen=True)
class Screen:
    """One page: its module in this folder, and how the sidebar and the URL name it."""

    module: str
    title: str
    section: str
    path: str
    icon: str

    @property
    def exists(self) -> bool:
        """Whether the page has been written."""
        return (Path(__file__).parent / f"{self.module}.py").is_file()

    @property
    def page(self) -> Callable[[], Any]:
        """The function that draws it."""
        function: Callable[[], Any] = importlib.import_module(f"screens.{self.module}").page
        return function


SCREENS = (
    Screen("start", "Start", "The lab", "", ":material/play_circle:"),
    Screen("walls", "Walls", "The lab", "walls", ":material/straighten:"),
    Screen("machine_room", "Machine room", "The lab", "machine-room", ":material/lan:"),
    Screen("studio", "Collectives", "Methods", "collectives", ":material/hub:"),
    Screen("data_parallel", "Data parallel", "Methods", "data-parallel", ":material/call_split:"),
    Screen("shard_bench", "Shard bench", "Methods", "shards", ":material/stacked_bar_chart:"),
    Screen("pipeline", "Pipelines", "Methods", "pipelines", ":material/view_timeline:"),
    Screen("tensor_loom", "Tensor loom", "Methods", "loom", ":material/grid_on:"),
    Screen("memory_river", "Memory river", "Methods", "memory", ":material/water:"),
    Screen("context_ring", "Context ring", "Methods", "context", ":material/donut_large:"),
    Screen("experts", "Expert exchange", "Methods", "experts", ":material/alt_route:"),
    Screen("parity", "Mesh and parity", "Methods", "parity", ":material/deployed_code:"),
    Screen("museum", "Bug museum", "Instruments", "museum", ":material/bug_report:"),
    Screen("compare", "Compare", "Instruments", "compare", ":material/table_chart:"),
    Screen("inspector", "Trace inspector", "Instruments", "traces", ":material/search:"),
)


def load() -> None:
    """Import every page now rather than at its first visit."""
    for screen in SCREENS:
        if screen.exists:
            assert screen.page is not None


def navigation() -> dict[str, list[Any]]:
    """The pages that exist, by section, as `st.navigation` takes them."""
    sections: dict[str, list[Any]] = {}
    for screen in SCREENS:
        if screen.exists:
            page = st.Page(
                screen.page,
                title=screen.title,
                url_path=screen.path or screen.module,
                icon=screen.icon,
                default=not screen.path,
            )
            sections.setdefault(screen.section, []).append(page)
    return sections
