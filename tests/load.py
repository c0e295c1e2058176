"""Keeps processors busy while the tests run beside it: `python -m tests.load [PROCESSES]`.

A test that waits for a time instead of for a condition fails under such a load. Ctrl-C ends it.
"""

from __future__ import annotations

import os
import signal
import sys


def main(processes: int = 2) -> None:
    """Runs busy loops in so many processes until the first signal."""
    parent, children = os.getpid(), []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            while os.getppid() == parent:
                sum(range(1_000_000))
            os._exit(0)
        children.append(child)
    print(f"{processes} busy processes; Ctrl-C ends them", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
