"""Determines the version to serve: the current champion."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from components.export.pointer import Entry
from components.export.registry import CHAMPION_FILE, RegisteredModel
from components.serve.metrics import Metrics
from components.serve.model_process import ModelProcess, ProcessEndedError
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
    """A version that could not be loaded."""

    version: Entry
    manifest: str | None
    """Digest of its folder's manifest at the time; with another one it is retried at once."""
    retry_seconds: float
    retry_at: float
    """Monotonic time."""


class ChampionFollower:
    """Keeps the champion and, for a rollback, the previous version in memory.

    A request reads `current` once, so that its answer comes from one version, whose process ends
    only after that. A version is identified by number and digest: a folder that has taken over a
    number is another version than the one in memory.
    """

    def __init__(self, model: str, metrics: Metrics, load: Callable[[str], ModelProcess]):
        """Loads the version to serve.

        Args:
          model: a model's folder, `<registry>/<name>`, or a version's, which is then served
            permanently.
          metrics: records the loaded versions.
          load: loads the version in a folder.

        Raises:
          InputError: there is no such model, it can't be loaded, or it was changed.
        """
        self._metrics = metrics
        self._load_version = load
        self._before: ModelProcess | None = None
        self._revive_at = 0.0
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
        self._path = path
        self.current = load(path)
        self._serve(self.current)

    def version(self, number: int) -> ModelProcess | None:
        """Returns a version in memory by its number."""
        before = self._before
        if self.current.number == number:
            return self.current
        return before if before and before.alive and before.number == number else None

    def state(self) -> dict[str, Any]:
        """Returns the served and the wanted version, for `/readyz`.

        `status` is `behind` while the served version is not the champion, and `restarting` while
        its process has ended; `problem` then states why the champion can't be served, and is empty
        while it is being loaded.
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
        if not current.alive:
            state |= {"status": "restarting", "problem": problem}
        return state

    def start(self) -> None:
        """Starts following the champion, and watching the version's process, in a thread."""
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
            except ProcessEndedError:  # the server is stopping
                return
            except Exception:  # it must keep running, or a promotion would be missed
                log.exception("checking for a new champion")

    def look(self) -> None:
        """Serves the champion if it has changed; keeps the served version if it can't be loaded.

        Also starts the served version again if its process has ended.
        """
        wanted = self._find_wanted()
        loaded = self._in_memory(wanted) if wanted else None
        if wanted and loaded is None and self._may_try(wanted):
            loaded = self._load(wanted)
        if loaded is None:
            self._fall_back(wanted)
            return
        self._failure, self._problem = None, ""
        if loaded is not self.current:
            self._replace(loaded)

    def _find_wanted(self) -> Entry | None:
        """Returns the version to serve: the champion, unless a version was named."""
        if not self._follows:
            return Entry(self.current.number, self.current.digest)
        try:
            self._champion = self._model.champion()
            if self._champion is None:
                raise InputError(f"{os.path.join(self._model.folder, CHAMPION_FILE)} is gone")
        except (InputError, OSError) as error:
            self._champion = None
            self._complain(str(error))
        self._tell_difference()
        return self._champion

    def _load(self, wanted: Entry) -> ModelProcess | None:
        """Loads a version; None on failure, or if another one has become champion meanwhile."""
        manifest = self._model.digest_of(wanted.version)
        try:
            path = self._model.folder_of(wanted) if self._follows else self._path
            loaded = self._load_version(path)
            if not _is(loaded, wanted):
                loaded.retire()
                raise InputError(f"{loaded.path} was replaced while it was being loaded")
        except (InputError, OSError) as error:
            self._put_off(wanted, manifest, str(error))
            return None
        if self._follows and self._model.champion() != wanted:
            loaded.retire()
            return None
        return loaded

    def _fall_back(self, wanted: Entry | None) -> None:
        """Makes sure that some version is served where the wanted one can't be loaded."""
        if self.current.alive:
            return
        if self._before is not None and self._before.alive:
            self._replace(self._before)
        elif time.monotonic() >= self._revive_at and not (wanted and _is(self.current, wanted)):
            try:
                self._replace(self._load_version(self.current.path))
            except (InputError, OSError) as error:
                self._complain(str(error))
                self._revive_at = time.monotonic() + MAX_RETRY_SECONDS

    def _replace(self, loaded: ModelProcess) -> None:
        """Serves a version; keeps the one before, and ends the one before that."""
        unneeded = None
        if not self.current.alive:
            self._metrics.process_ends.inc()
        else:
            unneeded, self._before = self._before, self.current
        if self._before is loaded:
            self._before = None
        self._serve(loaded)
        if unneeded is not None and unneeded is not loaded:
            unneeded.retire()

    def _in_memory(self, wanted: Entry) -> ModelProcess | None:
        for version in (self.current, self._before):
            if version is not None and version.alive and _is(version, wanted):
                return version
        return None

    def _may_try(self, wanted: Entry) -> bool:
        failure = self._failure
        if failure is None or failure.version != wanted or time.monotonic() >= failure.retry_at:
            return True
        return self._model.digest_of(wanted.version) != failure.manifest

    def _put_off(self, version: Entry, manifest: str | None, problem: str) -> None:
        seconds, failure = FIRST_RETRY_SECONDS, self._failure
        if failure is not None and (failure.version, failure.manifest) == (version, manifest):
            seconds = min(2 * failure.retry_seconds, MAX_RETRY_SECONDS)
        self._failure = _Failure(version, manifest, seconds, time.monotonic() + seconds)
        self._metrics.load_failures.inc()
        self._complain(problem)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error("%s; version %d stays in use; will retry", problem, self.current.number)

    def _serve(self, version: ModelProcess) -> None:
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


def _is(version: ModelProcess, entry: Entry) -> bool:
    """Whether an entry means a version in memory; without a digest, the number decides."""
    return version.number == entry.version and entry.digest in (None, version.digest)
