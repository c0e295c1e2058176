"""Errors that a user can act on, and `ENDINGS`: every exit code and what follows from it."""

from __future__ import annotations

import dataclasses
import enum

EXIT_RESTARTABLE = 75
EXIT_ORPHANED = 78
EXIT_SIGNALLED = 128
"""Plus the signal number; 128 itself: the container could not start."""


class CharloomError(Exception):
    """An error whose message tells the user what failed, where, and what to do next.

    The command line prints the message as one line, without a traceback, and exits with
    `exit_code`.
    """

    @property
    def exit_code(self) -> int:
        """The code that `ENDINGS` assigns to this class."""
        return ending_for(self).code


class InputError(CharloomError, ValueError):
    """Bad input: a file, flag, config field or folder that can't be used."""


class RejectedError(CharloomError):
    """The model or its data did not meet a configured limit."""


class RestartableError(CharloomError):
    """The run stopped through no fault of its input; the same command continues it."""


class StoppedError(RestartableError):
    """The training was asked to stop; it continues from its newest checkpoint."""


class OrphanedError(StoppedError):
    """The same, because its launcher is gone: restarting the workers is useless."""


class KilledError(RestartableError):
    """A worker was killed by a signal."""


class Restart(enum.Enum):
    """Whether all workers restart from the newest checkpoint after one has ended."""

    NEVER = "no"
    COUNTED = "yes"
    """Up to the configured number of restarts."""
    UNCOUNTED = "yes, not counted"


@dataclasses.dataclass(frozen=True)
class Ending:
    """One way in which a command or a training worker ends."""

    code: int
    error: type[BaseException]
    command: str = ""
    """Meaning of the code from a command; empty: no command ends this way."""
    worker: str = ""
    """Meaning of the code from a worker; empty: no worker ends this way."""
    local: Restart = Restart.NEVER
    """Restart rule for workers on one machine."""
    cluster: Restart = Restart.NEVER
    """Restart rule for workers on a cluster, where JobSet sees only the code."""
    rule: str = ""
    """Name of the JobSet rule for a worker's end that triggers no restart."""


_NEVER, _COUNTED, _UNCOUNTED = Restart
ENDINGS = (
    Ending(2, InputError, "bad input", "bad input", rule="badInput"),
    Ending(EXIT_ORPHANED, OrphanedError, "", "the launcher's lease has expired", rule="orphaned"),
    Ending(1, CharloomError, "failed", "failed", _NEVER, _COUNTED),
    Ending(EXIT_RESTARTABLE, StoppedError, "", "asked to stop", _UNCOUNTED, _UNCOUNTED),
    Ending(EXIT_SIGNALLED, KilledError, "", "ended by a signal", _COUNTED, _COUNTED),
    Ending(
        EXIT_RESTARTABLE,
        RestartableError,
        "interrupted by SIGTERM or SIGHUP, or by losing workers too often",
        "lost another worker, or made no progress",
        _COUNTED,
        _UNCOUNTED,
    ),
    Ending(3, RejectedError, "rejected by the gate or a drift limit"),
    Ending(130, KeyboardInterrupt, "stopped by Ctrl-C"),
)
"""Where workers end in several ways, the first in this order is the cause."""


def ending_for(error: BaseException) -> Ending:
    """Returns the ending of the nearest class that has one; unexpected errors count as failures."""
    endings = {ending.error: ending for ending in ENDINGS}
    return next(endings[cls] for cls in (*type(error).__mro__, CharloomError) if cls in endings)


def ending_of(code: int) -> Ending:
    """Returns the ending of a worker known only by its exit code.

    Args:
      code: nonzero; negative: killed by a signal, or unknown.
    """
    if not 0 <= code < EXIT_SIGNALLED:
        code = EXIT_SIGNALLED
    # The last of those with the same code: only the error reveals that a stop was requested.
    endings = {ending.code: ending for ending in ENDINGS if ending.worker}
    return endings.get(code, endings[1])
