"""Time of a training step with a vocabulary of 800,000 words relative to 20,000.

Sampled softmax, same batches: both read one synthetic text, whose words are drawn by Zipf's law
from 800,000 random spellings. It is prepared twice, with the 20,000 most frequent words and with
all of them as the given vocabulary. Both sides run in turn while the other waits.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from bench import _data, _sides
from model.config import DataConfig, to_dict, with_overrides
from model.data.records import Dataset
from model.errors import InputError
from model.presets import get_preset

SIZES = (20_000, 800_000)
TEXT_WORDS = 400_000
LINE_WORDS = 20


def main() -> None:
    """Compares, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _data.add_options(parser, preset="small")
    parser.add_argument("--blocks", type=int, default=6, help="blocks per side (default: 6)")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="duration of a block (default: 8)"
    )
    options = parser.parse_args()
    cores = _sides.choose_cores(2)
    config = with_overrides(get_preset(options.preset), options.set)
    if config.train.softmax != "sampled":
        raise InputError("this needs the sampled softmax; add --set train.softmax=sampled")
    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        sides = []
        try:
            for size, dataset in zip(SIZES, _prepare(folder, SIZES), strict=True):
                of_size = dataclasses.replace(config, data=dataset.config)
                job = {
                    "config": to_dict(of_size) | _data.VERSION,
                    "records": dataset.path,
                    "threads": len(cores),
                }
                path = _data.write_job(os.path.join(folder, f"{size}.json"), job)
                sides.append(_sides.our_side(path, cores=cores, name=f"V {size}"))
            _sides.warm_up(sides, seconds=5.0)
            speeds = _sides.interleave(sides, blocks=options.blocks, seconds=options.seconds)
        finally:
            for side in sides:
                side.close()
    words = config.train.lanes * config.train.window
    small, large = (float(f"{words / _sides.median(speeds[side.name]):.4g}") for side in sides)
    _sides.print_result(
        ratio=round(large / small, 3),
        seconds_20k=small,
        seconds_800k=large,
        preset=options.preset,
        lanes=config.train.lanes,
        window=config.train.window,
    )


def _prepare(folder: str, sizes: Sequence[int]) -> list[Dataset]:
    """Writes the text and prepares it with each vocabulary size."""
    from components.preprocess.main import run  # imports Beam, which takes seconds

    text, words = os.path.join(folder, "text.txt"), _spell_words(max(sizes))
    generator = np.random.default_rng(1)
    weights = 1.0 / np.arange(1, len(words) + 1)
    drawn = generator.choice(len(words), size=TEXT_WORDS, p=weights / weights.sum())
    with open(text, "w", encoding="utf-8") as file:
        for start in range(0, len(drawn), LINE_WORDS):
            file.write(" ".join(words[i] for i in drawn[start : start + LINE_WORDS]) + "\n")
    datasets = []
    for size in sizes:
        vocab, records = (os.path.join(folder, f"{name}-{size}") for name in ("vocab", "records"))
        with open(vocab, "w", encoding="utf-8") as file:
            file.writelines(f"{word}\n" for word in words[:size])
        config = DataConfig(
            tokenizer="whitespace",
            sentence_marks=False,
            record_words=8192,
            valid_fraction=0.0,
            test_fraction=0.0,
        )
        _data.say(f"records with {size} words in {records}")
        with contextlib.redirect_stdout(sys.stderr):
            run(train=[text], vocab=vocab, records=records, config=config)
        datasets.append(Dataset.open(records))
    return datasets


def _spell_words(count: int) -> list[str]:
    """Returns distinct words of 3 to 12 letters; the frequent ones are short."""
    generator = np.random.default_rng(2)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    words: dict[str, None] = {}
    while len(words) < count:
        length = min(12, 3 + int(np.log10(len(words) + 1) * 1.5))
        rows = letters[generator.integers(0, 26, (4096, length))]
        words.update(dict.fromkeys(bytes(row).decode() for row in rows))
    return list(words)[:count]


if __name__ == "__main__":
    _sides.run_main(main)
