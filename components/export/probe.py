"""Loads a SavedModel as a server would, and replays the recorded requests.

Run by path in its own process, `python -I -S probe.py FOLDER ...`: it must work without our
packages, so it imports none of them and sees only the given folders. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from typing import Any

OURS = ("components", "model", "pipelines")
TOLERANCE = 1e-4
"""Maximum difference from a recorded number, absolute and relative."""
GPU_TOLERANCE = 10.0
"""Factor on a GPU, where a batch of another size is added up in another order. Unproven."""
ROUNDS = 5
"""How often each request is timed; the median counts."""


class _NoPackageOfOurs:
    """Refuses to import our packages, should they be installed next to TensorFlow."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in OURS:
            raise ImportError(f"{name} is one of our packages")


def main() -> None:
    """Prints the measurements, or the problem."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("requests")
    parser.add_argument("--path", action="append", default=[])
    options = parser.parse_args()
    sys.path.extend(options.path)
    sys.meta_path.insert(0, _NoPackageOfOurs())
    try:
        result = probe(options.folder, options.requests)
    except Exception as error:
        name, text = type(error).__name__, " ".join(str(error).split())[:300]
        result = {"problem": f"it can't be loaded and queried ({name}: {text})"}
    print(json.dumps(result), flush=True)


def probe(folder: str, requests_file: str) -> dict[str, Any]:
    """Returns `problem`, or load time in seconds, latency in ms and peak memory in MB."""
    gc.disable()  # imports are quicker
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 (registers ops of exported models)

    gc.enable()
    started = time.monotonic()
    loaded = tf.saved_model.load(folder)
    load_seconds = time.monotonic() - started
    with open(requests_file, encoding="utf-8") as file:
        requests = json.load(file)["requests"]
    tolerance = TOLERANCE * (GPU_TOLERANCE if tf.config.list_physical_devices("GPU") else 1.0)
    latencies = []
    for number, request in enumerate(requests):
        function = loaded.signatures[request["signature"]]
        inputs = as_tensors(function, request["inputs"])
        problem = differs(function(**inputs), request["outputs"], tolerance)
        if problem:
            return {"problem": f"request {number} ({request['signature']}): {problem}"}
        latencies.append(_latency(function, inputs))
    return {
        "requests": len(requests),
        "load_seconds": load_seconds,
        "latency_ms": max(latencies),
        "memory_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Returns the peak memory of this process alone, in MB.

    On Linux, ru_maxrss includes the peak of the parent process; VmHWM does not.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass  # macOS, where ru_maxrss is in bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _latency(function: Any, inputs: Any) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for value in function(**inputs).values():
            value.numpy()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def differs(outputs: Any, expected: Any, tolerance: float = TOLERANCE) -> str:
    """Returns how an answer differs from the recorded one; empty if it does not.

    Args:
      outputs: tensors by name, as returned by a signature.
      expected: plain values by name.
      tolerance: largest relative and absolute difference of a number.
    """
    import numpy as np  # from the given folders

    if set(outputs) != set(expected):
        return f"it answers {sorted(outputs)}, not {sorted(expected)}"
    for name, value in outputs.items():
        found = value.numpy()
        if found.dtype == object:
            same = as_text(found.tolist()) == expected[name]
        else:
            wanted = np.asarray(expected[name], found.dtype)
            same = found.shape == wanted.shape and bool(
                np.allclose(found, wanted, rtol=tolerance, atol=tolerance)
            )
        if not same:
            return f"{name} differs from the recorded value"
    return ""


def as_tensors(function: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Converts plain values to a signature's inputs."""
    import tensorflow as tf

    specs = function.structured_input_signature[1]
    return {name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()}


def as_plain(value: Any) -> Any:
    """Converts an output tensor to nested lists of numbers or strings."""
    array = value.numpy()
    return as_text(array.tolist()) if array.dtype == object else array.tolist()


def as_text(value: Any) -> Any:
    """Converts nested lists of bytes to strings."""
    return [as_text(one) for one in value] if isinstance(value, list) else value.decode()


if __name__ == "__main__":
    main()
