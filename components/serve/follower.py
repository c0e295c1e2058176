"""Determines the version to serve: the current champion."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from typing import Any

from components.export.pointer import Entry
from components.export.registry import CHAMPION_FILE, RegisteredModel
from components.serve.loaded import LoadedVersion
from components.serve.metrics import Metrics
from model.errors import InputError
from model.files import holds_saved_model

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
FIRST_RETRY_SECONDS = 1.0
"""Delay after a champion could not be loaded; doubled after each further failure."""
MAX_RETRY_SECONDS = 60.0
"""Maximum delay between two attempts."""


@dataclasses.dataclass
class _Failure:
    """A champion that could not be loaded."""

    champion: Entry
    manifest: str | None
    """Digest of its folder's manifest at the time; with another one it is retried at once."""
    retry_seconds: float
    retry_at: float
    """Monotonic time."""


class ChampionFollower:
    """Keeps the champion and, for a rollback, the previous version in memory.

    A request reads `current` once, so that its answer comes from one version, which stays in memory
    until then. A version is identified by number and digest: a folder that has taken over a
    number is another version than the one in memory.
    """

    def __init__(self, model: str, metrics: Metrics):
        """Loads the version to serve.

        Args:
          model: a model's folder, `<registry>/<name>`, or a version's, which is then served
            permanently.
          metrics: records the loaded versions.

        Raises:
          InputError: there is no such model, it can't be loaded, or it was changed.
        """
        self._metrics = metrics
        self._before: LoadedVersion | None = None
        self._failure: _Failure | None = None
        self._problem = ""
        self._champion: Entry | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        path = os.path.abspath(model)
        self._follows = not holds_saved_model(path)
        self._model = RegisteredModel.at(path if self._follows else os.path.dirname(path))
        self.name = self._model.name
        if self._follows:
            self._champion = self._model.champion()
            if self._champion is None:
                raise InputError(
                    f"{model} has no {CHAMPION_FILE}; name <registry>/<name> of a published model"
                )
            path = self._model.folder_of(self._champion)
        self.current = LoadedVersion(path)
        self._serve(self.current)

    def version(self, number: int) -> LoadedVersion | None:
        """Returns a version in memory by its number."""
        for version in (self.current, self._before):
            if version is not None and version.number == number:
                return version
        return None

    def state(self) -> dict[str, Any]:
        """Returns the served and the wanted version, for `/readyz`.

        `status` is `behind` while the served version is not the champion; `problem` then states why
        the champion can't be served, and is empty while it is being loaded.
        """
        current, champion, problem = self.current, self._champion, self._problem
        state: dict[str, Any] = {"status": "ok"}
        state |= {"version": current.number, "digest": current.digest}
        if self._follows:
            behind = champion is None or not _is(current, champion)
            state["status"] = "behind" if behind else "ok"
            state["champion"] = champion and {
                "version": champion.version,
                "digest": champion.digest,
            }
            state["problem"] = problem if behind else ""
        return state

    def start(self) -> None:
        """Starts following the champion, in a thread."""
        if self._follows:
            self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stops the thread."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            try:
                self.look()
            except Exception:  # it must keep running, or a promotion would be missed
                log.exception("checking for a new champion")

    def look(self) -> None:
        """Serves the champion if it has changed; keeps the served version if it can't be loaded."""
        try:
            champion = self._model.champion()
            if champion is None:
                raise InputError(f"{os.path.join(self._model.folder, CHAMPION_FILE)} is gone")
        except (InputError, OSError) as error:
            self._champion = None
            self._tell_difference()
            self._complain(str(error))
            return
        self._champion = champion
        self._tell_difference()
        loaded = self._in_memory(champion)
        if loaded is None and self._may_try(champion):
            loaded = self._load(champion)
        if loaded is None:
            return
        self._failure, self._problem = None, ""
        if loaded is not self.current:
            self._before = self.current
            self._serve(loaded)

    def _load(self, champion: Entry) -> LoadedVersion | None:
        """Loads the champion; None on failure, or if another one has become champion meanwhile."""
        manifest = self._model.digest_of(champion.version)
        try:
            loaded = LoadedVersion(self._model.folder_of(champion))
            if not _is(loaded, champion):
                raise InputError(f"{loaded.path} was replaced while it was being loaded")
        except (InputError, OSError) as error:
            self._put_off(champion, manifest, str(error))
            return None
        return loaded if self._model.champion() == champion else None

    def _in_memory(self, champion: Entry) -> LoadedVersion | None:
        for version in (self.current, self._before):
            if version is not None and _is(version, champion):
                return version
        return None

    def _may_try(self, champion: Entry) -> bool:
        failure = self._failure
        if failure is None or failure.champion != champion or time.monotonic() >= failure.retry_at:
            return True
        return self._model.digest_of(champion.version) != failure.manifest

    def _put_off(self, champion: Entry, manifest: str | None, problem: str) -> None:
        seconds, failure = FIRST_RETRY_SECONDS, self._failure
        if failure is not None and (failure.champion, failure.manifest) == (champion, manifest):
            seconds = min(2 * failure.retry_seconds, MAX_RETRY_SECONDS)
        self._failure = _Failure(champion, manifest, seconds, time.monotonic() + seconds)
        self._metrics.load_failures.inc()
        self._complain(problem)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error("%s; version %d stays in use; will retry", problem, self.current.number)

    def _serve(self, version: LoadedVersion) -> None:
        self.current = version
        self._metrics.serves(version.number)
        self._tell_difference()
        log.info("serving %s, loaded in %.1f s", version.path, version.load_seconds)

    def _tell_difference(self) -> None:
        if self._follows:
            champion = self._champion
            behind = champion is None or not _is(self.current, champion)
            self._metrics.champion.set(champion.version if champion else 0)
            self._metrics.behind.set(behind)


def _is(version: LoadedVersion, entry: Entry) -> bool:
    """Whether an entry means a version in memory; without a digest, the number decides."""
    return version.number == entry.version and entry.digest in (None, version.digest)
