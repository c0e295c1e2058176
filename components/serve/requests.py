"""Parses requests of TensorFlow Serving's REST API, and checks them before TensorFlow sees them.

{"signature_name": "score", "instances": ["a text", ...]}              rows
{"signature_name": "next_word", "inputs": {"texts": [...], "k": 5}}    columns

A text may also be `{"b64": "..."}`, UTF-8 as base64.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from components.serve.messages import TensorInfo

Values = dict[str, Any]
"""Plain lists, numbers and strings by name."""

DEFAULT_SIGNATURE = "serving_default"
MAX_TEXTS = 1024
"""Maximum texts per request."""
MAX_CHARACTERS = 1 << 17
"""Maximum texts times characters of the longest: answers are padded to the longest."""
MAX_CHARACTERS_OF_VECTORS = 1 << 14
"""The same where the answer has a vector per word."""
MAX_K = 1000
MAX_DEPTH = 8
"""Maximum nesting of brackets; a request needs three levels."""
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A string, perhaps without its end, or a bracket outside of one."""


class HttpError(Exception):
    """A request error, with its HTTP status."""

    def __init__(self, status: int, message: str):
        """Takes the HTTP status and a one-line message for the client."""
        super().__init__(message)
        self.status = status


class Signatures(Protocol):
    """What a version can be asked."""

    @property
    def signatures(self) -> list[str]:
        """Names of the signatures."""

    def inputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's inputs, by name."""

    def outputs(self, signature: str) -> dict[str, TensorInfo]:
        """Returns a signature's outputs, by name."""


class Question(NamedTuple):
    """A valid request."""

    signature: str
    inputs: Values
    by_rows: bool
    """Whether the answer uses `predictions`, one row per text, instead of `outputs`."""
    size: int
    """Number of texts or words in the request."""


def parse_question(body: bytes, version: Signatures) -> Question:
    """Parses the body of a request.

    Raises:
      HttpError: the version can't answer it.
    """
    content = _parse_json(body)
    if not isinstance(content, dict):
        raise HttpError(400, "the body must be a JSON object")
    unknown = content.keys() - {"signature_name", "instances", "inputs"}
    if unknown:
        raise HttpError(
            400,
            f"unknown key {sorted(unknown)[0][:50]!r}; allowed keys: signature_name, instances, inputs",
        )
    signature = content.get("signature_name", DEFAULT_SIGNATURE)
    if signature == "":
        signature = DEFAULT_SIGNATURE
    if not isinstance(signature, str) or signature not in version.signatures:
        raise HttpError(
            400, f"unknown signature_name; choose one of {', '.join(version.signatures)}"
        )
    if ("instances" in content) == ("inputs" in content):
        raise HttpError(400, "provide either instances or inputs")
    specs = version.inputs(signature)
    if "instances" in content:
        inputs = _read_rows(content["instances"], specs)
    else:
        inputs = _read_columns(content["inputs"], specs)
    if set(inputs) != set(specs):
        raise HttpError(400, f"{signature} takes {_listed(specs)}")
    inputs = {name: _decoded(name, value, specs[name]) for name, value in inputs.items()}
    for name, value in inputs.items():
        _check(name, value, specs[name])
    with_vectors = any(len(spec.shape) > 2 for spec in version.outputs(signature).values())
    most = MAX_CHARACTERS_OF_VECTORS if with_vectors else MAX_CHARACTERS
    lists = [value for value in inputs.values() if isinstance(value, list)]
    for value in lists:
        _check_size(value, most)
    size = max((len(value) for value in lists), default=0)
    return Question(signature, inputs, "instances" in content, size)


def _parse_json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HttpError(400, f"the body is not UTF-8 at byte {error.start}") from None
    _check_depth(text)
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_parse_int)
    except ValueError as error:
        raise HttpError(400, f"the body is not JSON ({str(error)[:100]})") from None


def _check_depth(text: str) -> None:
    """Rejects nesting deep enough for a parser to run out of stack."""
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise HttpError(400, f"the body is nested deeper than {MAX_DEPTH} brackets")
        elif token[0] in "]}":
            depth -= 1


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _parse_int(text: str) -> int:
    if len(text) > 20:
        raise ValueError("a number has more than 20 digits")
    return int(text)


def _read_rows(rows: Any, specs: dict[str, TensorInfo]) -> Values:
    """Converts rows, each a value or an object of values, to columns."""
    if len(specs) != 1 or any(len(spec.shape) != 1 for spec in specs.values()):
        raise HttpError(400, f"this signature takes {_listed(specs)}; pass them as inputs")
    (name,) = specs
    if not isinstance(rows, list):
        raise HttpError(400, "instances must be a list")
    column = []
    for row in rows:
        if isinstance(row, dict) and not _is_base64(row):
            if set(row) != {name}:
                raise HttpError(400, f"each of instances must have {name}, and nothing else")
            row = row[name]
        column.append(row)
    return {name: column}


def _read_columns(inputs: Any, specs: dict[str, TensorInfo]) -> Values:
    if isinstance(inputs, dict):
        return inputs
    if len(specs) != 1:
        raise HttpError(400, f"inputs must be an object with {_listed(specs)}")
    return dict.fromkeys(specs, inputs)


def _is_base64(value: Any) -> bool:
    """Whether a value is a text as TensorFlow Serving writes bytes: `{"b64": "..."}`."""
    return isinstance(value, dict) and set(value) == {"b64"}


def _decoded(name: str, value: Any, spec: TensorInfo) -> Any:
    """Returns an input; if it takes texts, with base64 decoded and without byte order marks."""
    if spec.dtype != "string" or not isinstance(value, list):
        return value
    texts = (_decode(name, one) if _is_base64(one) else one for one in value)
    return [one.removeprefix("\ufeff") if isinstance(one, str) else one for one in texts]


def _decode(name: str, value: dict[str, Any]) -> str:
    try:
        return base64.b64decode(value["b64"], validate=True).decode()
    except UnicodeDecodeError as error:
        raise HttpError(400, f"b64 in {name} is not UTF-8 at byte {error.start}") from None
    except (ValueError, TypeError):
        raise HttpError(400, f"b64 in {name} is not base64") from None


def _check(name: str, value: Any, spec: TensorInfo) -> None:
    check: Callable[[str, Any], None] = _check_text if spec.dtype == "string" else _check_count
    if not spec.shape:
        check(name, value)
        return
    if not isinstance(value, list):
        raise HttpError(400, f"{name} must be a list")
    if not 1 <= len(value) <= MAX_TEXTS:
        raise HttpError(400, f"{name} has {len(value)} entries; 1 to {MAX_TEXTS} are allowed")
    for one in value:
        check(name, one)


def _check_size(texts: list[str], most: int) -> None:
    longest = max(len(text) for text in texts)
    if len(texts) * longest > most:
        raise HttpError(
            400,
            f"{len(texts)} texts of up to {longest:,} characters are too much for one request; "
            f"their product may be at most {most:,}",
        )


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise HttpError(400, f"{name} must contain strings")
    if "\0" in value:
        raise HttpError(400, f"{name} contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise HttpError(
            400, f"{name} contains an unpaired surrogate at character {error.start}"
        ) from None


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= MAX_K:
        raise HttpError(400, f"{name} must be a whole number from 1 to {MAX_K}")


def _listed(specs: dict[str, TensorInfo]) -> str:
    return " and ".join(specs)
