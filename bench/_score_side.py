"""An exported model as a program that times scoring of texts.

  {"do": "score", "texts": 1000, "times": 3}  -> {"seconds": ..., "words": ..., "peak_mb": ...}

`seconds` is the median over passes through the first texts of the file, which repeats if it is too
short. Scores like `charloom score`, without printing.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator

import tensorflow as tf

from components.export.probe import peak_mb
from pipelines.cli import query


def main() -> None:
    """Answers until its input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", required=True)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = query.load(options.model)
    with open(options.texts, encoding="utf-8") as file:
        texts = file.read().splitlines()
    _answer(ready=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = []
        for _ in range(asked["times"]):
            started = time.perf_counter()
            words = _score(model, itertools.islice(itertools.cycle(texts), asked["texts"]))
            seconds.append(time.perf_counter() - started)
        _answer(seconds=statistics.median(seconds), words=words, peak_mb=peak_mb())


def _score(model: object, texts: Iterator[str]) -> int:
    output = io.StringIO()
    words = 0
    for row in query.score_rows(model, texts):
        output.seek(0)
        output.write(query.format_row(row, "tsv"))
        words += row["words"]
    return words


def _answer(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
