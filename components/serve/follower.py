"""Which version is served: the champion, whichever it is at the moment."""

from __future__ import annotations

import logging
import os
import threading

from components.export.registry import CHAMPION_FILE, read_pointer
from components.serve.loaded import LoadedVersion
from components.serve.metrics import Metrics
from model.errors import CharloomError, InputError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25


class Follower:
    """Keeps the champion and, for a rollback, the version before in memory; follows `champion.json`.

    A request takes `current` once and keeps it, so that its answer is of one version, which stays
    in memory until then.
    """

    def __init__(self, model: str, metrics: Metrics):
        """Loads what is to be served.

        Args:
          model: a model's folder, `<registry>/<name>`, or that of one version, which then stays.
          metrics: are told of what is loaded.

        Raises:
          InputError: there is no such model, or it can't be loaded.
        """
        self._metrics = metrics
        self._before: LoadedVersion | None = None
        self._failed: int | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        path = os.path.abspath(model)
        self._follows = not os.path.exists(os.path.join(path, "saved_model.pb"))
        self._folder = path if self._follows else os.path.dirname(path)
        self.name = os.path.basename(self._folder)
        if self._follows:
            number = self._read_champion()
            if number is None:
                raise InputError(
                    f"{model} has no {CHAMPION_FILE}; name <registry>/<name> of a published model"
                )
            path = os.path.join(path, str(number))
        self.current = LoadedVersion(path)
        self._tell()

    def version(self, number: int) -> LoadedVersion | None:
        """Returns a version that is in memory, by its number."""
        for version in (self.current, self._before):
            if version is not None and version.number == number:
                return version
        return None

    def start(self) -> None:
        """Follows the champion from now on, in a thread."""
        if self._follows:
            self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            try:
                self.look()
            except Exception:  # it must not end, or a promotion would go unseen
                log.exception("looking for the champion")

    def look(self) -> None:
        """Serves the champion if it is another one; keeps what is served if that can't be."""
        try:
            number = self._read_champion()
        except CharloomError as error:
            self._complain(-1, error)
            return
        if number is None or number == self.current.number:
            self._failed = None
            return
        loaded = self.version(number)
        if loaded is None:
            if number == self._failed:  # until the pointer moves again
                return
            try:
                loaded = LoadedVersion(os.path.join(self._folder, str(number)))
            except CharloomError as error:
                self._complain(number, error)
                return
        self._failed = None
        self._before, self.current = self.current, loaded
        self._tell()

    def _complain(self, number: int, error: CharloomError) -> None:
        if number != self._failed:
            self._failed = number
            self._metrics.load_failures.inc()
            log.error("%s; version %d stays", error, self.current.number)

    def _tell(self) -> None:
        self._metrics.serves(self.current.number)
        log.info("serving %s, loaded in %.1f s", self.current.path, self.current.load_seconds)

    def _read_champion(self) -> int | None:
        pointer = read_pointer(self._folder)
        return None if pointer is None else pointer.version
