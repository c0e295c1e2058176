"""Follows the log of worker 0 across its pods."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException

from components.train.cluster.api import ClusterApi
from components.train.cluster.outcome import attempt_of, rank_of

_OVERLAP_SECONDS = 60.0
"""Overlap of reads in seconds: the clocks of launcher and node may differ."""


class WorkerLog:
    """Prints the logs of worker 0's successive pods; each line once."""

    def __init__(self, api: ClusterApi, show: Callable[[str], None]):
        """Prints nothing until `update`.

        Args:
          api: the API connection.
          show: receives each line.
        """
        self._api = api
        self._show = show
        self._positions: dict[str, _Position] = {}
        self._whole: set[str] = set()

    def update(self, pods: Sequence[Mapping[str, Any]]) -> bool:
        """Prints new lines, as far as they can be read.

        Args:
          pods: pods of all workers.

        Returns:
          Whether the logs of all started pods are complete.
        """
        started = [
            pod
            for pod in sorted(pods, key=lambda pod: attempt_of(pod, default=0))
            if rank_of(pod) == 0 and pod.get("status", {}).get("phase") in _STARTED
        ]
        names = {pod["metadata"]["name"] for pod in started}
        for pod in started:
            name = pod["metadata"]["name"]
            position = self._positions.setdefault(name, _Position())
            if name not in self._whole and self._print(
                name, position, running=pod["status"]["phase"] == "Running"
            ):
                self._whole.add(name)
        return names <= self._whole

    def _print(self, name: str, position: _Position, *, running: bool) -> bool:
        """Prints a log as far as it can be read; returns whether it is complete.

        An API server that loses the kubelet's connection ends its answer normally: the log is
        complete once the pod has ended and another read brings nothing new.
        """
        position.begin()
        more = False
        try:
            response = self._api.open_log(name, since_seconds=position.age())
            lines = _LineReader(response)
            try:
                for line in lines:
                    more |= self._show_new(line, position)
            finally:
                response.close()
        except ApiException as error:
            if error.status == 403:
                self._show(f"the workers' log can't be read: {error.reason}; see k8s/base")
            return error.status in (403, 404)  # 404: the pod is gone
        except (urllib3.exceptions.HTTPError, OSError):
            return False
        if running or more or lines.rest != position.rest:
            position.rest = lines.rest
            return False
        if lines.rest:
            self._show_new(lines.rest, position)
        return True

    def _show_new(self, line: str, position: _Position) -> bool:
        stamp, _, text = line.partition(" ")
        new = position.is_new(stamp)
        if new:
            self._show(text)
        return new


_STARTED = ("Running", "Succeeded", "Failed")


class _Position:
    """How far a log was printed, by timestamps; several lines may share one."""

    def __init__(self) -> None:
        self._last, self._printed, self._skipped = "", 0, 0
        self.rest = ""
        """What followed the last complete line in the last read."""

    def begin(self) -> None:
        """Prepares for reading the log again, from `age` on."""
        self._skipped = 0

    def age(self) -> int | None:
        """Returns the age in seconds that includes all lines from the last one on.

        None if unknown: before the first line, or if its timestamp is invalid.
        """
        try:
            last = datetime.datetime.fromisoformat(self._last)
            seconds = (datetime.datetime.now(datetime.UTC) - last).total_seconds()
        except (ValueError, TypeError):
            return None
        return math.ceil(max(0.0, seconds) + _OVERLAP_SECONDS)

    def is_new(self, stamp: str) -> bool:
        """Whether the next line has not been printed yet."""
        if stamp == self._last and self._skipped < self._printed:
            self._skipped += 1
            return False
        if _as_time(stamp) < _as_time(self._last):
            return False
        if stamp != self._last:
            self._last, self._printed = stamp, 0
        self._printed += 1
        self._skipped = self._printed
        return True


def _as_time(stamp: str) -> tuple[str, str]:
    """Returns a sort key for RFC 3339 timestamps of one zone with fractions of any length."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


class _LineReader:
    """The complete lines of a stream, and the remainder after them."""

    def __init__(self, response: Any):
        self._response = response
        self.rest = ""

    def __iter__(self) -> Iterator[str]:
        rest = b""
        for block in self._response.stream(amt=None, decode_content=False):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", errors="replace")
        self.rest = rest.decode("utf-8", errors="replace")
