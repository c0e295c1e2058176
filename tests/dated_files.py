"""Small files of text in folders of days, and a time at which runs begin."""

from __future__ import annotations

import datetime
from pathlib import Path

NOON = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC)


def write(folder: Path, *names: str) -> None:
    """Writes files of two words below a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("some words\n")
