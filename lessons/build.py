"""Build the lessons: `NN_name.py` (jupytext percent, what is reviewed) -> an executed `.ipynb`.

    python lessons/build.py              build every lesson whose notebook is missing or drifted
    python lessons/build.py 01 --force   build this one anyway
    python lessons/build.py --check      exit 1 if a notebook does not hold its source's cells

What changes from run to run without meaning (timings, cell ids, the kernel's version) is taken
out; execution counts stay, since nbval wants them on the cells it compares.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 120
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
UNSOLVED, SOLUTION = "raises-exception", "solution"


def sources(only: str = "") -> list[Path]:
    """The lessons in teaching order, or those whose file name starts with `only`."""
    return sorted(path for path in HERE.glob("[0-9]*.py") if path.name.startswith(only))


def read(source: Path) -> NotebookNode:
    """The lesson as a notebook without outputs; ValueError if its exercise is not checkable."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    _exercises_are_proved_twice(source, notebook)
    return notebook


def _exercises_are_proved_twice(source: Path, notebook: NotebookNode) -> None:
    """A check that must fail before the solution, and the very same one after it."""
    tags = [set(cell.metadata.get("tags", ())) for cell in notebook.cells]
    for at, here in enumerate(tags):
        if UNSOLVED not in here:
            continue
        after = [i for i in range(at, len(tags)) if SOLUTION in tags[i]]
        again = notebook.cells[after[0] + 1].source if after else ""
        if notebook.cells[at].source != again:
            raise ValueError(
                f"{source.name}: the check in cell {at} must stand again, unchanged, right after "
                f"the first cell tagged {SOLUTION!r}"
            )


def execute(notebook: NotebookNode) -> NotebookNode:
    """Run every cell in a fresh kernel, in the lessons' folder; a cell that raises ends it."""
    NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    ).execute()
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    return notebook


def drifted(source: Path) -> bool:
    """Whether the built notebook is missing or its cells are not those of `source`."""
    built = source.with_suffix(".ipynb")
    if not built.exists():
        return True
    return _cells(read(source)) != _cells(nbformat.read(built, as_version=4))


def _cells(notebook: NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(c.cell_type, c.source, list(c.metadata.get("tags", ()))) for c in notebook.cells]


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 when all is built, or with --check when nothing has drifted."""
    parser = argparse.ArgumentParser(description="Build the lesson notebooks.")
    parser.add_argument("lesson", nargs="?", default="", help="how its file name starts, e.g. 01")
    parser.add_argument("--check", action="store_true", help="build nothing; say what drifted")
    parser.add_argument("--force", action="store_true", help="build even what has not drifted")
    options = parser.parse_args(arguments)
    stale = [s for s in sources(options.lesson) if options.force or drifted(s)]
    for source in stale:
        if options.check:
            print(
                f"{source.name} and its .ipynb differ: run python lessons/build.py", file=sys.stderr
            )
            continue
        print(f"building {source.stem} ...", file=sys.stderr)
        nbformat.write(execute(read(source)), source.with_suffix(".ipynb"))
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
