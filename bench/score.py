"""Words/s of scoring texts on one core: the exported model with its table against without it.

The SavedModel is exported twice: with the table of known words' inputs to the first layer, and
without it, so that the char-CNN reads all distinct words of a window; and PyTorch scores the same
texts in a loop, each as a batch. The three take turns on the same core. Then the one with the
table scores increasing numbers of texts: seconds per word and peak memory. Weights are random,
which does not affect speed. Texts are lines of Brown's validation part, cut to the first
`--words` words.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from typing import Any
from unittest import mock

import numpy as np

from bench import _data, _sides
from bench._data import say
from model.config import Config, to_dict
from model.data.records import Dataset
from model.presets import get_preset
from model.text.spelling import NUM_CHARS, spell_rows
from model.text.tokenizer import detokenize
from model.text.vocab import DOCUMENT_START

TEXTS = 2000
"""Number of distinct texts; larger sizes repeat them."""


def main() -> None:
    """Runs the sides, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _data.add_options(parser, preset="demo")
    parser.add_argument(
        "--words", type=int, default=20, help="maximum words per text (default: 20)"
    )
    parser.add_argument("--texts", type=int, default=256, help="texts to compare (default: 256)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 1000, 10_000, 100_000])
    parser.add_argument("--no-torch", action="store_true", help="omit PyTorch")
    options = parser.parse_args()
    cores = _sides.choose_cores(1)
    torch_python = "" if options.no_torch else _sides.find_torch_python()
    dataset = _data.open_corpus(max_words=get_preset(options.preset).data.vocab_size)
    config = _data.read_config(options, dataset)
    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        texts = _read_texts(dataset, words=options.words)
        path = os.path.join(folder, "texts")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(detokenize(words).decode() + "\n" for words in texts)
        for name, table in (("table", True), ("plain", False)):
            _export(config, dataset, os.path.join(folder, name), table=table)
        sides = {
            name: _sides.Side(name, _command(os.path.join(folder, name), path), cores=cores)
            for name in ("table", "plain")
        }
        if torch_python:
            program = os.path.join(_data.ROOT, "bench", "_torch_score.py")
            job = _torch_job(folder, config, dataset, texts)
            command = [torch_python, program, "--job", job]
            sides["torch"] = _sides.Side("PyTorch", command, cores=cores)
        try:
            figures = _compare(sides, options)
            figures |= _grow(sides["table"], options.sizes)
        finally:
            for side in sides.values():
                side.close()
    _sides.print_result(
        preset=options.preset, vocabulary=len(dataset.vocab), text_words=options.words, **figures
    )


def _compare(sides: dict[str, _sides.Side], options: argparse.Namespace) -> dict[str, Any]:
    for side in sides.values():
        side.wait()
        side.ask(do="score", texts=options.texts, times=1)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name, side in sides.items():
            answer = side.ask(do="score", texts=options.texts, times=1)
            rates[name].append(answer["words"] / answer["seconds"])
        said = ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rates.items())
        say(f"round {number + 1}: words/s {said}")
    table = statistics.median(rates["table"])
    ratios = {name: round(table / statistics.median(found), 3) for name, found in rates.items()}
    return {
        "ratio": ratios["plain"],
        "ratio_to_torch": ratios.get("torch"),
        "words_per_second": {name: round(statistics.median(rates[name])) for name in rates},
    }


def _grow(side: _sides.Side, sizes: list[int]) -> dict[str, Any]:
    rows = []
    for size in sizes:
        answer = side.ask(do="score", texts=size, times=5 if size < 1000 else 1)
        each = 1e6 * answer["seconds"] / answer["words"]
        rows.append([size, round(each, 1), round(answer["peak_mb"])])
        say(f"{size} texts: {each:.1f} microseconds per word, peak {answer['peak_mb']:.0f} MB")
    costs, peaks = [row[1] for row in rows], [row[2] for row in rows]
    return {
        "texts_microseconds_peak_mb": rows,
        "cost_of_most_over_fewest": round(costs[-1] / costs[0], 3) if rows else None,
        "peak_of_most_over_fewest": round(peaks[-1] / peaks[0], 3) if rows else None,
    }


def _command(model: str, texts: str) -> list[str]:
    return [sys.executable, "-m", "bench._score_side", "--model", model, "--texts", texts]


def _export(config: Config, dataset: Dataset, folder: str, *, table: bool) -> None:
    import tensorflow as tf

    from model.network.joint_model import JointModel
    from model.serving.saved_model import ServedModel
    from model.serving.words import ServedWords

    say(f"exporting a SavedModel {'with' if table else 'without'} the table")
    model = JointModel(config.model, vocab_counts=dataset.vocab.counts)
    served = ServedModel(model, config=config, vocab=dataset.vocab)
    signatures = {"score": served.score, "next_word": served.next_word, "embed": served.embed}
    gates = ServedWords.gates if table else ServedWords._compute
    with mock.patch.object(ServedWords, "gates", gates):
        tf.saved_model.save(served, folder, signatures=signatures)


def _read_texts(dataset: Dataset, *, words: int) -> list[list[bytes]]:
    """Returns lines of the validation part, cut from its records."""
    stream = [
        word
        for index in range(len(dataset.lengths("valid")))
        for word in dataset.read("valid", index).spelled_words()[1:]
    ]
    return [stream[at * words : (at + 1) * words] for at in range(min(TEXTS, len(stream) // words))]


def _torch_job(folder: str, config: Config, dataset: Dataset, texts: list[list[bytes]]) -> str:
    """Writes the input of `_torch_score.py`."""
    read = [word for words in texts for word in (DOCUMENT_START, *words[:-1])]
    arrays = os.path.join(folder, "torch.npz")
    np.savez(
        arrays,
        lengths=np.asarray([len(words) for words in texts]),
        words=np.asarray(dataset.vocab.encode(read), np.int32),
        targets=np.asarray(dataset.vocab.encode([w for words in texts for w in words]), np.int32),
        chars=spell_rows(read, config.model.max_word_bytes),
    )
    job = {
        "model": to_dict(config.model),
        "vocab_size": len(dataset.vocab),
        "num_chars": NUM_CHARS,
        "dropout": [0.0, 0.0, 0.0],
        "loss": "full",
        "arrays": arrays,
    }
    path = os.path.join(folder, "torch.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(job, file)
    return path


if __name__ == "__main__":
    _sides.run_main(main)
