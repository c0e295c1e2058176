"""The last check before publishing: a fresh process loads the model and queries it.

The exporting process records requests with their answers. A process with TensorFlow but without our
packages must give the same answers within the limits on time and memory.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from typing import Any

from components.export import probe
from model.errors import CharloomError
from model.field_limits import check_range
from model.files import write_whole

REQUESTS_FILE = "requests.json"
UNKNOWN_WORD = "unfriendzoned"
"""A word that occurs in no training text, so that it is read by its characters."""
PROPOSED = 5
TIMEOUT_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits on the time and memory for answering one request."""

    latency_ms: float = 2_000.0
    """Latency of the slowest recorded request: the median of several tries."""
    memory_mb: float = 8_192.0
    """Peak memory of the whole process, including TensorFlow."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_range("--max-latency-ms", self.latency_ms, 0.0, 1e9)
        check_range("--max-memory-mb", self.memory_mb, 0.0, 1e9)


def record_requests(exported: Any, folder: str, texts: Sequence[str]) -> None:
    """Writes requests.json: requests to each signature of a SavedModel, with its answers.

    Args:
      exported: the SavedModel, loaded.
      folder: the SavedModel's folder.
      texts: held-out texts.
    """
    asked = [*texts, "", UNKNOWN_WORD]
    questions: list[tuple[str, dict[str, Any]]] = [
        ("score", {"texts": asked}),
        ("serving_default", {"texts": asked[:1]}),
        ("next_word", {"texts": asked, "k": PROPOSED}),
        ("embed", {"texts": asked[-1:]}),
    ]
    if "similar" in exported.signatures:
        questions.append(("similar", {"words": [UNKNOWN_WORD], "k": PROPOSED}))
    requests = []
    for signature, inputs in questions:
        function = exported.signatures[signature]
        answer = function(**probe.as_tensors(function, inputs))
        outputs = {name: probe.as_plain(value) for name, value in answer.items()}
        requests.append({"signature": signature, "inputs": inputs, "outputs": outputs})
    text = json.dumps({"requests": requests}, ensure_ascii=False)
    write_whole(os.path.join(folder, REQUESTS_FILE), text + "\n")


def check_in_fresh_process(
    folder: str, budget: Budget, *, otherwise: str = "nothing was published"
) -> dict[str, float]:
    """Loads and queries a SavedModel in a process that has TensorFlow but not our packages.

    Args:
      folder: the SavedModel's folder, with its requests.json.
      budget: limits on its time and memory.
      otherwise: what an error message says about the model.

    Returns:
      `requests`, `load_seconds`, `latency_ms` and `memory_mb`.

    Raises:
      CharloomError: it can't be loaded, answers differently, or exceeds the budget.
    """
    folder = os.path.abspath(folder)  # the process uses another working directory
    requests = os.path.join(folder, REQUESTS_FILE)
    command = [sys.executable, "-I", "-S", probe.__file__, folder, requests]
    for path in _library_folders():
        command += ["--path", path]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["NVIDIA_TF32_OVERRIDE"] = "0"  # products of float32, as when it was compared
    for name in ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "HOME", "TMPDIR"):
        if name in os.environ:
            environment[name] = os.environ[name]
    try:
        done = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise _refused(f"it gave no answer within {TIMEOUT_SECONDS} s", otherwise) from None
    try:
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        reason = f"its process ended with code {done.returncode} ({said})"
        raise _refused(reason, otherwise) from None
    if "problem" in result:
        raise _refused(result["problem"], otherwise)
    for name, limit, unit in (
        ("latency_ms", budget.latency_ms, "ms"),
        ("memory_mb", budget.memory_mb, "MB"),
    ):
        if not result[name] <= limit:
            flag = f"--max-{name.replace('_', '-')}"
            raise _refused(
                f"it takes {result[name]:,.1f} {unit}, but {limit:,.1f} are allowed ({flag})",
                otherwise,
            )
    return result


def _library_folders() -> list[str]:
    """Returns the folders of installed packages, without those added by .pth files."""
    folders = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    for name in ("tensorflow", "tensorflow_text"):
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            folders.append(os.path.dirname(os.path.dirname(spec.origin)))
    return list(dict.fromkeys(folders))


def _refused(reason: str, otherwise: str) -> CharloomError:
    return CharloomError(
        f"the exported model failed its check in a fresh process: {reason}; {otherwise}"
    )
