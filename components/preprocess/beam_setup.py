"""Configures Beam: quiet, and quick to end a bundle."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_SAMPLING_PERIOD_MS = 10


def sample_often() -> None:
    """Shortens Beam's sampling period so that a bundle ends soon after its work.

    A Beam thread periodically samples the step that a bundle is in, and the end of the bundle waits
    for the next sample: up to 200 ms, for which Beam has no option.
    """
    from apache_beam.runners.worker import statesampler

    statesampler.StateSampler.__init__.__defaults__ = (_SAMPLING_PERIOD_MS,)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Suppresses warnings on Beam's import about missing cloud libraries."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def quiet_beam() -> Iterator[None]:
    """Suppresses Beam's log; errors are raised as exceptions that contain all of it.

    Messages of a job server are logged by the root logger, to which Python adds a permanent handler
    if it has none.
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
