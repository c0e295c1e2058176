"""Stands in for the process of a version: no TensorFlow, so it starts at once.

A version's folder may hold `hang` (it is never loaded), `broken` or `killed`. A request is a JSON
object: `until` names a file to wait for, `crash` ends the process, `bytes` is the answer's size.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Generator

from components.export.registry import version_digest
from components.serve import worker
from components.serve.messages import Answer, Ask, Failed, Ready, TensorInfo
from components.serve.work_queue import Step, WorkQueue


class StubAnswerer:
    """Does what requests tell."""

    def __init__(self, number: int):
        """Takes the version's number, which is the answer where nothing else is asked for."""
        self._number = number

    def steps(self, ask: Ask) -> Generator[Step, None, Answer]:
        """Answers one; leaves a file `.began`, and `.dropped` if the work was ended before."""
        wish = json.loads(ask.body)
        if "until" in wish:
            open(f"{wish['until']}.began", "w").close()
        try:
            while "until" in wish and not os.path.exists(wish["until"]):
                time.sleep(0.005)
                yield Step(1)
        except GeneratorExit:
            open(f"{wish['until']}.dropped", "w").close()
            raise
        if "crash" in wish:
            os.kill(os.getpid(), signal.SIGKILL)
        body = b'"%b"' % (b"a" * wish["bytes"]) if "bytes" in wish else b"%d" % self._number
        return Answer(ask.number, 200, body, "score", 1)


class StubWorker(worker.Worker):
    """Loads nothing."""

    def load(self, path: str, *, threads: int) -> bool:
        """Does what the version's folder tells."""
        if os.path.exists(os.path.join(path, "hang")):
            signal.pause()
        if os.path.exists(os.path.join(path, "killed")):
            os.kill(os.getpid(), signal.SIGKILL)
        if os.path.exists(os.path.join(path, "broken")):
            self._send(Failed(f"{path} is broken"))
            return False
        number = int(os.path.basename(path))
        self._answerer = StubAnswerer(number)  # type: ignore[assignment]
        self._queue = WorkQueue(threads)
        tensors = {"score": {"texts": TensorInfo("string", (None,))}}
        self._send(Ready(number, version_digest(path), 0.0, tensors, tensors))
        return True


if __name__ == "__main__":
    worker.Worker = StubWorker  # type: ignore[misc]
    worker.main()
