"""champion.json: a model's champion, its former champions, and its reference.

A digest is the SHA-256 of a version's MANIFEST.json, because the number alone is not reliable once
somebody has removed or copied a folder by hand:

{"format": 2, "version": 3, "digest": D3, "history": [{"version": 1, "digest": D1}, ...],
 "newest": 7, "reference": {"version": 2, "digest": D2}}

The older form {"version": 3, "history": [1, 2]} is also accepted; its digests are unknown and
filled in at the next write.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

POINTER_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """A version named in a pointer."""

    version: int
    """Its number."""
    digest: str | None = None
    """SHA-256 of its MANIFEST.json; None: unknown, as in a pointer of the older form."""


@dataclasses.dataclass(frozen=True)
class Pointer:
    """The content of champion.json."""

    version: int
    """The champion's number."""
    digest: str | None = None
    """SHA-256 of the champion's MANIFEST.json; None: unknown."""
    history: tuple[Entry, ...] = ()
    """Former champions, oldest first; a rollback takes the last one."""
    newest: int = 0
    """The highest number ever assigned, whether or not its version still exists."""
    reference: Entry | None = None
    """The best version so far, which limits the drift of a chain of champions."""

    @property
    def champion(self) -> Entry:
        """The champion's number and digest."""
        return Entry(self.version, self.digest)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All versions in the pointer: former champions, the champion, the reference."""
        reference = () if self.reference is None else (self.reference,)
        return (*self.history, self.champion, *reference)

    @classmethod
    def from_json(cls, text: str) -> Pointer:
        """Parses champion.json, of either form.

        Raises:
          ValueError, KeyError, TypeError, AttributeError: it is damaged.
        """
        content = json.loads(text)
        if content.get("format", POINTER_FORMAT) != POINTER_FORMAT:
            raise ValueError
        champion = _entry(content)
        history = content.get("history", [])
        if not isinstance(history, list):
            raise TypeError
        entries = tuple(_entry(one) for one in history)
        reference = content.get("reference")
        newest = content.get("newest", 0)
        if type(newest) is not int:
            raise TypeError
        return cls(
            champion.version,
            champion.digest,
            entries,
            max(newest, champion.version, *(one.version for one in entries)),
            None if reference is None else _entry(reference),
        )

    def to_json(self, digest_of: Callable[[int], str | None]) -> str:
        """Returns the text of champion.json.

        Args:
          digest_of: returns a version's digest by its number, for entries that lack one.
        """

        def known(entry: Entry) -> dict[str, Any]:
            return {"version": entry.version, "digest": entry.digest or digest_of(entry.version)}

        content = {
            "format": POINTER_FORMAT,
            **known(self.champion),
            "history": [known(entry) for entry in self.history],
            "newest": max(self.newest, *(entry.version for entry in self.entries)),
            "reference": None if self.reference is None else known(self.reference),
        }
        return json.dumps(content) + "\n"


def _entry(value: Any) -> Entry:
    if type(value) is int:
        return Entry(value)
    version, digest = value["version"], value.get("digest")
    if type(version) is not int or not (digest is None or isinstance(digest, str)):
        raise TypeError
    return Entry(version, digest)
