"""How a version's process answers: in calls, within limits."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest
from clocks import Clock

from components.serve import worker as module
from components.serve.loaded import LoadedVersion
from components.serve.messages import Answer, Ask, TensorInfo
from components.serve.requests import HttpError
from components.serve.slices import MAX_WORDS, SLICE_WORDS
from components.serve.word_counter import WordCounter
from components.serve.work_queue import Step
from components.serve.worker import Answerer


class Version:
    """Answers each text with its length, taking 10 ms a character."""

    signatures = ["score"]  # noqa: RUF012

    def __init__(self, clock: Clock):
        self.calls: list[int] = []
        self._clock = clock

    def inputs(self, signature: str) -> dict[str, TensorInfo]:
        return {"texts": TensorInfo("string", (None,))}

    def outputs(self, signature: str) -> dict[str, TensorInfo]:
        return {"words": TensorInfo("int64", (None,)), "tokens": TensorInfo("string", (None, None))}

    def ask(self, signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        lengths = [len(text) for text in inputs["texts"]]
        self.calls.append(sum(lengths))
        self._clock.now += 0.01 * sum(lengths)
        tokens = np.full([len(lengths), max(lengths)], b"x", object)
        return {"words": np.array(lengths), "tokens": tokens}


class Counter:
    """Each character is a word."""

    def count(self, texts: list[str]) -> list[int]:
        return [len(text) for text in texts]


class Lab:
    """An answerer without a model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        clock = Clock()
        monkeypatch.setattr(module, "time", clock)
        self.version = Version(clock)
        self._answerer = Answerer(
            cast(LoadedVersion, self.version), cast(WordCounter, Counter()), request_seconds=60.0
        )

    def ask(self, texts: list[str]) -> tuple[list[Step], Answer]:
        """Returns the steps and the answer of a request."""
        body = json.dumps({"signature_name": "score", "inputs": {"texts": texts}}).encode()
        steps, taken = self._answerer.steps(Ask(7, body)), []
        while True:
            try:
                taken.append(next(steps))
            except StopIteration as done:
                return taken, done.value


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


def test_a_small_request_is_one_call(lab: Lab) -> None:
    steps, answer = lab.ask(["abc", "a"])
    assert steps == [Step(4)]
    outputs = {"words": [3, 1], "tokens": [["x"] * 3] * 2}
    assert json.loads(answer.body) == {"outputs": outputs}
    assert answer[:2] == (7, 200)
    assert answer[3:] == ("score", 2)


def test_a_large_request_is_many_calls(lab: Lab) -> None:
    texts = ["a" * (SLICE_WORDS // 2)] * 5
    steps, answer = lab.ask(texts)
    calls = [Step(SLICE_WORDS, heavy=True)] * 2 + [Step(SLICE_WORDS // 2, heavy=True)]
    assert steps == [Step(20), *calls, Step(10, heavy=True)]
    assert lab.version.calls == [step.cost for step in calls]
    assert json.loads(answer.body)["outputs"]["words"] == [SLICE_WORDS // 2] * 5


def test_words_and_values_are_limited_before_the_model_is_asked(lab: Lab) -> None:
    with pytest.raises(HttpError, match="the texts have 40,000 words; at most 32,768"):
        lab.ask(["a" * 40_000])
    assert lab.version.calls == []


def test_a_text_that_would_take_too_long_is_refused_once_the_speed_is_known(lab: Lab) -> None:
    lab.ask(["a" * 7000])  # takes 70 s: nothing is known yet
    with pytest.raises(HttpError, match=r"a text has 7,000 words; this model reads at most 6,000 "):
        lab.ask(["a" * 7000])
    lab.ask(["a" * 5999])
    assert lab.version.calls == [7000, 5999]
    assert MAX_WORDS > 7000
