"""What a request must look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.serve.messages import TensorInfo
from components.serve.requests import (
    MAX_CHARACTERS,
    MAX_CHARACTERS_OF_VECTORS,
    MAX_DEPTH,
    MAX_K,
    MAX_TEXTS,
    HttpError,
    Question,
    parse_question,
)


class Version:
    """Signatures, as a loaded version has them."""

    signatures = ["embed", "next_word", "score", "serving_default"]  # noqa: RUF012

    def inputs(self, signature: str) -> dict[str, TensorInfo]:
        texts = {"texts": TensorInfo("string", (None,))}
        return {**texts, "k": TensorInfo("int32", ())} if signature == "next_word" else texts

    def outputs(self, signature: str) -> dict[str, TensorInfo]:
        shape = (None, None, 2, 24) if signature == "embed" else (None, None)
        return {"found": TensorInfo("float32", shape)}


def parse(body: Any) -> Question:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_question(data, Version())


@pytest.mark.parametrize(
    ("body", "question"),
    [
        ({"instances": ["a", "b"]}, Question("serving_default", {"texts": ["a", "b"]}, True, 2)),
        (
            {"signature_name": "score", "instances": [{"texts": "a"}]},
            Question("score", {"texts": ["a"]}, True, 1),
        ),
        ({"inputs": {"texts": [""]}}, Question("serving_default", {"texts": [""]}, False, 1)),
        ({"inputs": ["[{"] * 3}, Question("serving_default", {"texts": ["[{"] * 3}, False, 3)),
        (
            {"signature_name": "next_word", "inputs": {"texts": ["a"], "k": 3}},
            Question("next_word", {"texts": ["a"], "k": 3}, False, 1),
        ),
        (
            {"signature_name": "", "instances": [{"b64": "R3LDtsOfZQ=="}, {"texts": {"b64": ""}}]},
            Question("serving_default", {"texts": ["Größe", ""]}, True, 2),
        ),
        (
            {"signature_name": "next_word", "inputs": {"texts": [{"b64": "YQ=="}], "k": 3}},
            Question("next_word", {"texts": ["a"], "k": 3}, False, 1),
        ),
        (
            '\ufeff{"instances": ["\ufeffa", {"b64": "77u/YQ=="}]}'.encode(),
            Question("serving_default", {"texts": ["a", "a"]}, True, 2),
        ),
    ],
)
def test_good_requests(body: Any, question: Question) -> None:
    assert parse(body) == question


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"instances": ["a"]', "the body is not JSON"),
        (b'{"instances": ["a\x00"]}', "the body is not JSON"),
        (b'{"instances": ["a\\u0000"]}', "texts contains a NUL character"),
        (b'{"instances": ["\\ud800"]}', "texts contains an unpaired surrogate at character 0"),
        (b'{"instances": ["\xff"]}', "the body is not UTF-8 at byte 16"),
        (b'{"instances": [NaN]}', "NaN is not JSON"),
        (b"[" * 100_000, f"nested deeper than {MAX_DEPTH} brackets"),
        (b'{"a":' * 9, "nested deeper"),
        (b'{"instances": [' + b"9" * 5000 + b"]}", "a number has more than 20 digits"),
        (["a"], "the body must be a JSON object"),
        ("a", "the body must be a JSON object"),
        ({"instances": ["a"], "x": 1}, "unknown key 'x'"),
        ({}, "provide either instances or inputs"),
        ({"instances": ["a"], "inputs": ["a"]}, "provide either instances or inputs"),
        (
            {"signature_name": "guess", "instances": ["a"]},
            "unknown signature_name; choose one of embed, n",
        ),
        ({"signature_name": ["score"], "instances": ["a"]}, "unknown signature_name"),
        ({"instances": "a"}, "instances must be a list"),
        ({"instances": []}, "texts has 0 entries; 1 to"),
        ({"instances": ["a"] * (MAX_TEXTS + 1)}, f"texts has {MAX_TEXTS + 1} entries"),
        ({"instances": ["a", "b" * (MAX_CHARACTERS // 2 + 1)]}, "2 texts of up to 65,537 charac"),
        (
            {"signature_name": "embed", "instances": ["b" * (MAX_CHARACTERS_OF_VECTORS + 1)]},
            "1 texts of up to 16,385 characters are too much for one request; their product may be",
        ),
        ({"instances": [1]}, "texts must contain strings"),
        ({"instances": [None]}, "texts must contain strings"),
        ({"instances": [["a"]]}, "texts must contain strings"),
        ({"instances": [{"b64": "a"}]}, "b64 in texts is not base64"),
        ({"instances": [{"b64": "YQ==\n"}]}, "b64 in texts is not base64"),
        ({"instances": [{"b64": "é"}]}, "b64 in texts is not base64"),
        ({"instances": [{"b64": 5}]}, "b64 in texts is not base64"),
        ({"instances": [{"b64": "YcM="}]}, "b64 in texts is not UTF-8 at byte 1"),
        ({"instances": [{"b64": "YQ==", "texts": "a"}]}, "each of instances must have texts"),
        ({"instances": [{"text": "a"}]}, "each of instances must have texts, and nothing else"),
        ({"instances": [{"texts": "a", "k": 1}]}, "each of instances must have texts"),
        ({"inputs": {"texts": "a"}}, "texts must be a list"),
        ({"inputs": {"words": ["a"]}}, "serving_default takes texts"),
        ({"signature_name": "next_word", "instances": ["a"]}, "takes texts and k; pass them as in"),
        ({"signature_name": "next_word", "inputs": ["a"]}, "an object with texts and k"),
        (
            {"signature_name": "next_word", "inputs": {"texts": ["a"]}},
            "next_word takes texts and k",
        ),
        *(
            (
                {"signature_name": "next_word", "inputs": {"texts": ["a"], "k": k}},
                f"k must be a whole number from 1 to {MAX_K}",
            )
            for k in (0, -1, MAX_K + 1, 10**19, 1.5, "3", True, None, [3])
        ),
    ],
)
def test_bad_requests(body: Any, message: str) -> None:
    with pytest.raises(HttpError) as raised:
        parse(body)
    assert raised.value.status == 400
    assert message in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ('{"a": "[[[[[[[[["}', 1),
        ('{"a": "\\"[[[[[[[[["}', 1),
        ('{"a": "\\\\"' + "[" * 8, 9),
        ("[" * 8 + "]" * 8 + "[" * 8, 8),
        ("[[]" * 9, 9),
        ('"' + "[" * 9, 0),
        ('"' + "[" * 9 + "\\", 0),
    ],
)
def test_brackets_count_outside_of_strings_only(text: str, depth: int) -> None:
    with pytest.raises(HttpError) as raised:
        parse(text.encode())
    assert ("nested deeper" in str(raised.value)) == (depth > MAX_DEPTH)


def test_the_largest_requests() -> None:
    assert parse({"instances": ["b" * (MAX_CHARACTERS // 2)] * 2}).size == 2
    assert parse({"instances": ["b" * 128] * MAX_TEXTS}).size == MAX_TEXTS
    largest = {"signature_name": "embed", "instances": ["b" * MAX_CHARACTERS_OF_VECTORS]}
    assert parse(largest).size == 1
