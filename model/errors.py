"""Errors that a user can act on, and `ENDINGS`: every exit code and what follows from it."""

from __future__ import annotations

import dataclasses
import enum

EXIT_RESTARTABLE = 75
EXIT_ORPHANED = 78
EXIT_SIGNALLED = 128
"""Plus the number of the signal; 128 itself: the container could not start."""


class CharloomError(Exception):
    """An error whose message is all that the user needs: what, where, what next.

    The command line prints the message as one line, without a traceback, and
    exits with `exit_code`.
    """

    @property
    def exit_code(self) -> int:
        """The code that `ENDINGS` gives to errors of this class."""
        return ending_for(self).code


class InputError(CharloomError, ValueError):
    """Bad input: a file, a flag, a config field or a folder that can't be used."""


class RejectedError(CharloomError):
    """The model or its data did not meet a configured limit."""


class RestartableError(CharloomError):
    """The run stopped through no fault of its input; the same command continues it."""


class StoppedError(RestartableError):
    """The training was asked to stop; it goes on from its newest checkpoint."""


class OrphanedError(StoppedError):
    """The same, because its launcher is gone: restarting the workers would be of no use."""


class KilledError(RestartableError):
    """A worker was ended by a signal."""


class Restart(enum.Enum):
    """Whether all workers are restarted after one has ended, from the newest checkpoint."""

    NEVER = "no"
    COUNTED = "yes"
    """Up to the configured number of restarts."""
    UNCOUNTED = "yes, not counted"


@dataclasses.dataclass(frozen=True)
class Ending:
    """One way in which a command or a worker of a training ends."""

    code: int
    error: type[BaseException]
    command: str = ""
    """What the code means from a command; empty: no command ends in this way."""
    worker: str = ""
    """What it means from a worker; empty: no worker ends in this way."""
    local: Restart = Restart.NEVER
    """What follows for workers on one machine."""
    cluster: Restart = Restart.NEVER
    """What follows for workers on a cluster, where JobSet sees nothing but the code."""
    rule: str = ""
    """Name of JobSet's rule for a worker's end after which the cluster restarts none."""


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
        "interrupted by SIGTERM, or by losing workers too often",
        "lost the others, or made no progress",
        _COUNTED,
        _UNCOUNTED,
    ),
    Ending(3, RejectedError, "rejected by the gate or by a limit of drift"),
    Ending(130, KeyboardInterrupt, "stopped by Ctrl-C"),
)
"""Where workers end in several ways, the first in this order is the cause."""


def ending_for(error: BaseException) -> Ending:
    """Returns the ending of the nearest class that has one; a defect is a failure."""
    endings = {ending.error: ending for ending in ENDINGS}
    return next(endings[cls] for cls in (*type(error).__mro__, CharloomError) if cls in endings)


def ending_of(code: int) -> Ending:
    """Returns the ending of a worker of which only the exit code is known.

    Args:
      code: other than 0; negative: a signal ended it, or nobody knows.
    """
    if not 0 <= code < EXIT_SIGNALLED:
        code = EXIT_SIGNALLED
    # Of several with one code the last: only the error tells that a stop was asked for.
    endings = {ending.code: ending for ending in ENDINGS if ending.worker}
    return endings.get(code, endings[1])
