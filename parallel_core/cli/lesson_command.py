"""`shardlab lesson`: the lessons in teaching order, or one of them opened in Jupyter."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from parallel_core import places


@dataclass(frozen=True)
class Lesson:
    """A notebook of the course: its file, its title, and the minutes it says it takes."""

    file: Path
    title: str
    minutes: int | None

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return self.file.stem


def lessons() -> list[Lesson]:
    """Every lesson, in teaching order; title and minutes are those of its first cells."""
    return [_read(file) for file in sorted(places.lessons().glob("[0-9]*.ipynb"))]


def _read(file: Path) -> Lesson:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    words = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    title = re.search(r"^# (.+)$", words, re.MULTILINE)
    minutes = re.search(r"(\d+) minutes", words)
    return Lesson(file, title[1] if title else file.stem, int(minutes[1]) if minutes else None)


@click.command("lesson")
@click.argument("name", default="list")
@click.option("--no-browser", is_flag=True, help="start Jupyter without opening a browser")
@click.option("--copy-only", is_flag=True, help="make the copy, do not start Jupyter")
def command(name: str, no_browser: bool, copy_only: bool) -> int:
    """List the lessons, or open one (NAME, or how its name starts) in Jupyter.

    You work on a copy in the current directory, which is kept: open it again and you go on.

    \b
    Examples:
      shardlab lesson
      shardlab lesson 01
    """
    every = lessons()
    if name == "list":
        _print(every)
        return 0
    copy = _copy(_choose(name, every))
    click.echo(f"your copy is {copy}", err=True)
    if copy_only:
        return 0
    if importlib.util.find_spec("jupyterlab") is None:
        raise click.ClickException("Jupyter is not installed: pip install 'shardlab[notebooks]'")
    command_line = [sys.executable, "-m", "jupyterlab", str(copy)]
    return subprocess.call(command_line + ["--no-browser"] * no_browser)


def _choose(name: str, every: list[Lesson]) -> Lesson:
    found = [one for one in every if one.name.split("_")[0] == name]  # 13, where there is a 13b
    found = found or [one for one in every if one.name.startswith(name)]
    if len(found) != 1:
        known = ", ".join(one.name for one in every) or "none"
        what = "no lesson" if not found else f"{len(found)} lessons"
        raise click.UsageError(f"{what} called {name!r}; there are: {known}")
    return found[0]


def _copy(lesson: Lesson) -> Path:
    """The reader's own copy, made if there is none yet; the original stays as it was."""
    copy = Path.cwd() / "my-lessons" / lesson.file.name
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(lesson.file, copy)
    return copy


def _print(every: list[Lesson]) -> None:
    table = Table("lesson", "title", "minutes")
    for one in every:
        table.add_row(one.name, one.title, "" if one.minutes is None else str(one.minutes))
    Console().print(table)
