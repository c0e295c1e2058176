"""Folders of runs as the pipeline leaves them, without running it."""

from __future__ import annotations

import json
import os
from pathlib import Path

DAY = 24 * 3600.0
NOW = 1_800_000_000.0


def make_run(
    folder: Path, name: str, *, days: float, checkpoint: str = "", now: float = NOW
) -> Path:
    """Makes a run's folder that was last used some days ago; returns it."""
    run = folder / name
    files = {"records/COMPLETED": "digest\n", "records/vocab.txt": "a 1\n", "listing/l.jsonl": "{}"}
    if checkpoint:
        files["report/report.json"] = json.dumps({"checkpoint": {"digest": checkpoint}})
    for path, content in files.items():
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text(content)
    set_age(run, days, now=now)
    return run


def set_age(path: Path, days: float, *, now: float = NOW) -> None:
    """Makes a folder and all in it as if last changed some days ago."""
    then = now - days * DAY
    for one in [*path.rglob("*"), path]:
        os.utime(one, (then, then))


def make_version(registry: Path, *, checkpoint: str, number: int = 1) -> Path:
    """Publishes something that was made of a checkpoint; returns its folder."""
    version = registry / "lm" / str(number)
    version.mkdir(parents=True)
    content = {"manifest_version": 1, "files": {}, "digests": {"checkpoint": checkpoint}}
    (version / "MANIFEST.json").write_text(json.dumps(content))
    return version
