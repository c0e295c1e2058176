"""What the server and the process of a loaded version send each other."""

from __future__ import annotations

from typing import NamedTuple


class TensorInfo(NamedTuple):
    """Type and shape of one named input or output of a signature."""

    dtype: str
    shape: tuple[int | None, ...]
    """None: of any size."""


Tensors = dict[str, dict[str, TensorInfo]]
"""By signature and name."""


class Ready(NamedTuple):
    """The version is loaded."""

    number: int
    digest: str | None
    load_seconds: float
    inputs: Tensors
    outputs: Tensors


class Failed(NamedTuple):
    """The version can't be loaded."""

    problem: str


class Ask(NamedTuple):
    """A request to answer."""

    number: int
    """Identifies the request until it is answered."""
    body: bytes


class Cancel(NamedTuple):
    """Nobody waits for the answer any more."""

    number: int


class Answer(NamedTuple):
    """The answer to a request."""

    number: int
    status: int
    """Of HTTP."""
    body: bytes
    """JSON, or the message of an error."""
    signature: str = ""
    """The one that was called; empty if none was."""
    texts: int = 0
    """Number of texts or words in the request."""
