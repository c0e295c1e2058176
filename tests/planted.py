"""A folder with files called like modules that our processes import."""

from __future__ import annotations

from pathlib import Path

_NAMES = ("components", "json", "model", "pipelines", "random", "tensorflow", "types")


def plant(folder: Path) -> Path:
    """Writes the files; a process that imports one of them fails."""
    folder.mkdir()
    for name in _NAMES:
        (folder / f"{name}.py").write_text('raise SystemExit(f"{__file__} was imported")\n')
    return folder
