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
    from components.export.pointer import Entry, Pointer
    from components.export.registry import RegisteredModel

    for number in (1, 2):
        make_version(folder / NAME / str(number), seed=number)
    pointer = Pointer(2, history=(Entry(1),), newest=2)
    RegisteredModel(str(folder), NAME).write_pointer(pointer)


def make_version(path: Path, *, seed: int, preset: str = "tiny") -> None:
    """Exports a model with random weights; one of another preset than `tiny` has 8,192 words."""
    import tensorflow as tf

    from components.export.checking import record_requests
    from components.export.manifest import write_manifest
    from model.config import to_json, with_overrides
    from model.network.joint_model import JointModel
    from model.presets import get_preset
    from model.serving.saved_model import ServedModel
    from model.text.vocab import Vocabulary

    kind = "whitespace" if preset == "tiny" else "words"
    settings = [f"data.tokenizer={kind}", "data.sentence_marks=false"]
    config = with_overrides(get_preset(preset), settings)
    words = ["the", "cat", "sat", "on", "mat", "unfriendly", "friends", "zoned", HOSTILE]
    words += [] if preset == "tiny" else [f"word{number}" for number in range(8192)]
    counts = {word.encode(): len(words) + 20 - at for at, word in enumerate(words)}
    vocab = Vocabulary.build(counts, max_size=len(words) + 9, min_count=1)
    model = JointModel(config.model, vocab_counts=vocab.counts, seed=seed)
    random = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(random.normal(0, 0.4, weight.shape))
    served = ServedModel(model, config=config, vocab=vocab)
    signatures = {name: getattr(served, name) for name in ("score", "next_word", "embed")}
    signatures |= {"serving_default": served.score, "similar": served.similar}
    tf.saved_model.save(served, str(path), signatures=signatures)
    record_requests(tf.saved_model.load(str(path)), str(path), ["the cat sat"])
    (path / "config.json").write_text(to_json(config))
    write_manifest(str(path), {"checkpoint": str(seed)})


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

    def memory_mb(self, pid: int | None = None) -> float:
        """Returns the resident memory of the server's process, or of another one."""
        status = Path(f"/proc/{pid or self.process.pid}/status").read_text()
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
