"""A registry of small models with random weights, and a server of it in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sharing import share

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "<img/src=x/onerror=window.hacked=1>"
"""A word of the vocabulary; no white space, so that it is one."""
NAME = "toy"


def share_registry(factory: pytest.TempPathFactory) -> str:
    """Returns the folder of a model with two versions, the second the champion; read only."""
    return str(share(factory, "served", _make_registry) / NAME)


def _make_registry(folder: Path) -> None:
    import tensorflow as tf

    from components.export.checking import record_requests
    from components.export.manifest import write_manifest
    from components.export.pointer import Entry, Pointer
    from components.export.registry import RegisteredModel
    from model.config import with_overrides
    from model.network.joint_model import JointModel
    from model.presets import tiny
    from model.serving.saved_model import ServedModel
    from model.text.vocab import Vocabulary

    config = with_overrides(tiny(), ["data.tokenizer=whitespace", "data.sentence_marks=false"])
    words = ["the", "cat", "sat", "on", "mat", "unfriendly", "friends", "zoned", HOSTILE]
    counts = {word.encode(): 20 - at for at, word in enumerate(words)}
    vocab = Vocabulary.build(counts, max_size=99, min_count=1)
    model_folder = folder / NAME
    for number in (1, 2):
        model = JointModel(config.model, vocab_counts=vocab.counts, seed=number)
        random = np.random.default_rng(number)
        for weight in model.weights:
            weight.assign(random.normal(0, 0.4, weight.shape))
        served = ServedModel(model, config=config, vocab=vocab)
        path = str(model_folder / str(number))
        signatures = {name: getattr(served, name) for name in ("score", "next_word", "embed")}
        signatures |= {"serving_default": served.score, "similar": served.similar}
        tf.saved_model.save(served, path, signatures=signatures)
        record_requests(tf.saved_model.load(path), path, ["the cat sat"])
        write_manifest(path, {"checkpoint": str(number)})
    pointer = Pointer(2, history=(Entry(1),), newest=2)
    RegisteredModel(str(folder), NAME).write_pointer(pointer)


class Server:
    """A running `charloom serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int):
        """Takes the process and the port at which it listens."""
        self.process = process
        self.port = port

    def ask(
        self, method: str, path: str, body: bytes | str | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Returns status, JSON (or text) and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read().decode()
            headers = {name.lower(): value for name, value in response.getheaders()}
            found = json.loads(content) if "json" in headers.get("content-type", "") else content
            return response.status, found, headers
        finally:
            connection.close()

    def predict(self, signature: str, **inputs: Any) -> Any:
        """Returns the outputs of a prediction."""
        body = json.dumps({"signature_name": signature, "inputs": inputs})
        status, answer, _ = self.ask("POST", f"/v1/models/{NAME}:predict", body)
        assert status == 200, answer
        return answer["outputs"]

    def memory_mb(self) -> float:
        """Returns the resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024


@contextlib.contextmanager
def serving(model: str, *flags: str) -> Iterator[Server]:
    """Runs a server until the block ends; it must then end by itself."""
    command = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli.main", "serve", "--model", model, "--port", "0",
         "--host", "127.0.0.1", *flags],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with command as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
            assert found, line
            yield Server(process, int(found[1]))
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=300)
        finally:
            process.kill()
