"""Where the project's folders are: beside parallel_core in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def assets() -> Path:
    """The folder of the corpus, the player, the icons and the recorded traces."""
    return _folder("assets")


def app() -> Path:
    """The folder of the web app."""
    return _folder("app")


def lessons() -> Path:
    """The folder of the lessons."""
    return _folder("lessons")


def _folder(name: str, package: Path = PACKAGE) -> Path:
    # The package comes first: in a wheel its parent is site-packages, where any "app" may lie.
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the folder {name}/ is neither in {package} nor beside it; install shardlab again"
    )
