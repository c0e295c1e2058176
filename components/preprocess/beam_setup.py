"""Beam as we like it: quiet, and quick to end a bundle."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_SAMPLING_PERIOD_MS = 10


def sample_often() -> None:
    """Lets a bundle of this process end soon after its work.

    A thread of Beam's looks now and then in which step a bundle is, and the end of the bundle waits
    until it looks again: up to 200 ms, for which Beam has no option.
    """
    from apache_beam.runners.worker import statesampler

    statesampler.StateSampler.__init__.__defaults__ = (_SAMPLING_PERIOD_MS,)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Keeps Beam's import from warning that libraries of some clouds are missing."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def quiet_beam() -> Iterator[None]:
    """Keeps Beam from logging; its errors come as exceptions, with all that is in the log.

    What a job server says is logged by the root logger itself, which Python gives a handler
    that stays, if it has none.
    """

    def is_of_others(record: logging.LogRecord) -> bool:
        return "apache_beam" not in record.pathname

    logger, root = logging.getLogger("apache_beam"), logging.getLogger()
    silent = logging.NullHandler()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    root.addHandler(silent)
    root.addFilter(is_of_others)
    try:
        yield
    finally:
        root.removeFilter(is_of_others)
        root.removeHandler(silent)
        logger.setLevel(level)
