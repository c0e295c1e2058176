"""A PyTorch loop over texts: the model of `_torch_model.py`, with each text as a batch.

Reads a job (JSON) and arrays, both written by `bench/score.py`: words and spellings are already
numbers, so splitting text into words is not timed. Answers like `_score_side.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time

import numpy as np
import torch
from _torch_model import JointModel  # type: ignore[import-not-found]


def main() -> None:
    """Answers until its input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", required=True)
    with open(parser.parse_args().job, encoding="utf-8") as file:
        job = json.load(file)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = JointModel(job).eval()
    size = job["model"]
    with np.load(job["arrays"]) as arrays:
        ends = np.cumsum(arrays["lengths"])
        parts = {
            name: [
                torch.from_numpy(part.astype(np.int64))
                for part in np.split(arrays[name], ends[:-1])
            ]
            for name in ("words", "chars", "targets")
        }
    texts = list(zip(parts["words"], parts["chars"], parts["targets"], strict=True))
    zeros = torch.zeros(size["lstm_layers"], 1, size["lstm_dim"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = []
        for _ in range(asked["times"]):
            started, count = time.perf_counter(), 0
            with torch.inference_mode():
                for words, chars, targets in itertools.islice(
                    itertools.cycle(texts), asked["texts"]
                ):
                    hidden, _ = model(words[None], chars, (zeros, zeros))
                    float(model.scores(hidden, targets).sum())
                    count += len(targets)
            seconds.append(time.perf_counter() - started)
        print(json.dumps({"seconds": statistics.median(seconds), "words": count}), flush=True)


if __name__ == "__main__":
    main()
