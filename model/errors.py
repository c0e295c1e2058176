"""Errors that a user can act on, and the exit codes that go with them."""

EXIT_BAD_INPUT = 2
EXIT_REJECTED = 3
EXIT_RESTARTABLE = 75
EXIT_ORPHANED = 78


class CharloomError(Exception):
    """An error whose message is all that the user needs: what, where, what next.

    The command line prints the message as one line, without a traceback, and
    exits with `exit_code`.
    """

    exit_code = 1


class InputError(CharloomError, ValueError):
    """Bad input: a file, a flag, a config field or a folder that can't be used."""

    exit_code = EXIT_BAD_INPUT


class RejectedError(CharloomError):
    """The gate said no."""

    exit_code = EXIT_REJECTED


class RestartableError(CharloomError):
    """The run stopped through no fault of its input; the same command continues it."""

    exit_code = EXIT_RESTARTABLE
