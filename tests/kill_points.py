"""Kills a change of the registry at each of its file operations, and looks at what is left.

Run as a program, so that it forks without TensorFlow's threads: `kill_points.py SCENARIO FOLDER`.
Prints the names of the operations as JSON.
"""

from __future__ import annotations

import builtins
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.export.manifest import made_of, verify, write_manifest
from components.export.promoting import collect, pin, promote, rebase, rollback
from components.export.publishing import describe_export, find_published, finish, publish_once
from components.export.registry import RegisteredModel
from model.errors import InputError

NAME = "m"
PATCHED = (
    *((os, name) for name in ("rename", "replace", "mkdir", "open", "fsync", "unlink", "remove")),
    *((os, name) for name in ("rmdir", "chmod", "close")),
    (fcntl, "flock"),
)


def registered(root: str) -> RegisteredModel:
    """Returns the model that is changed, in a registry."""
    return RegisteredModel(root, NAME)


class Operations:
    """Counts the file operations of this process, and kills it at one of them."""

    def __init__(self, kill_at: int = -1):
        """Takes over the functions of `os` and `open`.

        Args:
          kill_at: number of the operation before which the process dies; negative: none.
        """
        self.done: list[tuple[str, str]] = []
        self._kill_at = kill_at
        for module, name in PATCHED:
            setattr(module, name, self._counted(name, getattr(module, name)))
        builtins.open = self._counted("open", builtins.open)  # type: ignore[assignment]

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if len(self.done) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            first = arguments[0]
            if name == "fsync":
                first = os.readlink(f"/proc/self/fd/{first}")
            self.done.append((name, str(first)))
            return real(*arguments, **named)

        return call


def report(mark: str, champion: str | None) -> dict[str, Any]:
    """Returns the report on a checkpoint that was compared with that of a champion."""
    compared = None if champion is None else {"checkpoint_digest": champion}
    return {"checkpoint": {"digest": mark}, "champion": compared, "splits": {}}


def stage(root: str, mark: str, champion: str | None) -> str:
    """Fills a staging folder as an export does."""
    staged = Path(registered(root).stage())
    (staged / "variables").mkdir()
    (staged / "variables" / "data").write_text(mark * 100)
    (staged / "saved_model.pb").write_text(mark)
    (staged / "report.json").write_text(json.dumps(report(mark, champion)))
    write_manifest(str(staged), {"checkpoint": mark}, export=describe_export("float32"))
    return str(staged)


def export(
    root: str, mark: str, champion: str | None, *, when_filled: Callable[[], None] = lambda: None
) -> str:
    """Does what `components.export.main.run` does, without a model."""
    how: dict[str, Any] = {"digests": {"checkpoint": mark}, "export": describe_export("float32")}
    version = find_published(registered(root), **how)
    if version is None:
        staged = stage(root, mark, champion)
        try:
            when_filled()
            version = publish_once(registered(root), staged, **how)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    finish(registered(root), version, report=report(mark, champion))
    return version


def prepare(root: str, scenario: str) -> None:
    """Makes the registry as it is before a change."""
    if scenario != "first":
        export(root, "a", None)
    if scenario in ("promote", "rollback", "rebase", "pin", "collect"):
        export(root, "b", "a")
    if scenario == "promote":
        promote(registered(root), 1)
    if scenario == "collect":
        export(root, "c", "b")
        export(root, "d", "c")


def change(root: str, scenario: str) -> None:
    """Makes the change."""
    actions: dict[str, Callable[[], object]] = {
        "first": lambda: export(root, "a", None),
        "publish": lambda: export(root, "b", "a"),
        "promote": lambda: promote(registered(root), 2),
        "rollback": lambda: rollback(registered(root)),
        "rebase": lambda: rebase(registered(root), 2),
        "pin": lambda: pin(registered(root), 1),
        "collect": lambda: collect(registered(root), keep=1),
    }
    actions[scenario]()


def look(root: str) -> str | None:
    """Checks all that a reader may meet; returns the mark of the champion."""
    model = registered(root)
    folders = [model.version_folder(one) for one in model.versions()]
    marks = [made_of(folder) for folder in folders]
    assert len(set(marks)) == len(marks), marks  # each is published once
    for folder in folders:
        assert verify(folder) == []
    champion = model.champion_folder()
    return None if champion is None else made_of(champion)


def state(root: str) -> dict[str, Any]:
    """Returns what a finished change leaves, numbers that a killed one has used up aside."""
    model = registered(root)
    pointer = model.read_pointer()
    assert pointer is not None

    def mark(version: int) -> str | None:
        return made_of(model.version_folder(version))

    return {
        "versions": [mark(one) for one in model.versions()],
        "champion": mark(pointer.version),
        "history": [mark(one.version) for one in pointer.history],
        "reference": pointer.reference and mark(pointer.reference.version),
        "unfinished": model.read_numbers().unfinished,
    }


def run_child(work: Callable[[], None]) -> int:
    """Runs something in a fork; returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def drill(scenario: str, folder: str) -> list[tuple[str, str]]:
    """Kills a change at each operation, one after the other, and runs it again.

    Returns:
      Name and path of each operation of the change.
    """
    template, whole = os.path.join(folder, "template"), os.path.join(folder, "whole")
    os.makedirs(template)
    prepare(template, scenario)
    before = look(template)
    shutil.copytree(template, whole)
    log = os.path.join(folder, "log")

    def record() -> None:
        operations = Operations()
        change(whole, scenario)
        done = list(operations.done)
        Path(log).write_text(json.dumps(done))

    assert run_child(record) == 0
    operations = json.loads(Path(log).read_text())
    after, expected = look(whole), state(whole)
    for kill_at in range(len(operations)):
        root = os.path.join(folder, str(kill_at))
        shutil.copytree(template, root)

        def die(root: str = root, kill_at: int = kill_at) -> None:
            Operations(kill_at)
            change(root, scenario)

        assert run_child(die) == -signal.SIGKILL, operations[kill_at]
        seen = look(root)
        assert seen in (before, after), (operations[kill_at], seen)
        if scenario != "rollback" or seen != after:  # one that is done is not done once more
            change(root, scenario)
        assert look(root) == after
        assert state(root) == expected, (operations[kill_at], state(root), expected)
        collect(registered(root), keep=9)  # finds no more than a folder that was being filled
        left = [one for one in os.listdir(os.path.join(root, NAME)) if "-" in one]
        assert all(one.startswith(".staging-") for one in left), left
        shutil.rmtree(root)
    return [(name, path) for name, path in operations]


def race(folder: str, *, exports: int) -> list[str]:
    """Exports one checkpoint in some processes at once.

    Returns:
      The version's folder that each of them came to.
    """
    export(folder, "a", None)
    filled_read, filled_write = os.pipe()
    start_read, start_write = os.pipe()
    children = []
    for index in range(exports):
        child = os.fork()
        if child == 0:
            os.close(start_write)

            def wait() -> None:
                os.write(filled_write, b"x")
                os.read(start_read, 1)  # until it is closed: all go at once

            code = 1
            try:
                version = export(folder, "b", "a", when_filled=wait)
                Path(folder, f"result{index}").write_text(version)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for _ in children:
        os.read(filled_read, 1)
    os.close(start_write)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert look(folder) == "b"
    try:
        promote(registered(folder), 3)
        raise AssertionError("there must be no third version")
    except InputError:
        return [Path(folder, f"result{index}").read_text() for index in range(exports)]


if __name__ == "__main__":
    os.fsync = lambda descriptor: None  # counted, but a killed process loses nothing without it
    if sys.argv[1] == "race":
        print(json.dumps(race(sys.argv[2], exports=6)))
    else:
        print(json.dumps(drill(sys.argv[1], sys.argv[2])))
    assert "tensorflow" not in sys.modules
