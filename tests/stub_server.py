"""A server of versions without a model; its limits may be small. Run as a script by `serving`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving import NAME, Server

from components.export.manifest import write_manifest
from components.export.pointer import Pointer
from components.export.registry import RegisteredModel

WORKER = [sys.executable, str(Path(__file__).with_name("stub_worker.py"))]
PREDICT = f"/v1/models/{NAME}:predict"


def make_model(folder: Path, *numbers: int) -> RegisteredModel:
    """Creates versions, the first one the champion."""
    model = RegisteredModel(str(folder), NAME)
    for number in numbers:
        Path(model.version_folder(number)).mkdir(parents=True)
        write_manifest(model.version_folder(number), {"checkpoint": str(number)})
    model.write_pointer(Pointer(numbers[0]))
    return model


@contextlib.contextmanager
def stub_serving(
    model: str, *, files: int = 1024, wait: bool = True, **options: Any
) -> Iterator[Server]:
    """Runs a server until the block ends.

    Args:
      model: the model's folder.
      files: limit of open files.
      wait: whether to wait until it serves.
      options: of `components.serve.main.run`; `limits` and `app` hold limits to change.
    """
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps({"model": model, "files": files, **options})],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            port = 0
            if wait:
                line = process.stdout.readline()
                found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
                assert found, line
                port = int(found[1])
            yield Server(process, port)
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    """Returns the running processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return found


def _main(model: str, files: int, limits: Any = None, app: Any = None, **options: Any) -> None:
    from components.serve import app as app_module
    from components.serve import main, model_process
    from components.serve.access import AccessRules
    from components.serve.connections import ConnectionLimits

    def end(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    model_process.COMMAND = tuple(WORKER)  # type: ignore[misc]
    for name, value in (app or {}).items():
        setattr(app_module, name, value)
    main.ConnectionLimits = functools.partial(ConnectionLimits, **(limits or {}))  # type: ignore[misc,assignment]
    main.run(model=model, host="127.0.0.1", port=0, rules=AccessRules(), **options)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    _main(**json.loads(sys.argv[1]))
