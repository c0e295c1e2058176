"""Words/s of the whole data stage, raw text to records on disk, relative to tokenizers.

Without options: our stage against Hugging Face `tokenizers`, both on the same core, in alternating
blocks while the other waits. Ours reads the text, counts, encodes, and writes TFRecords,
vocabulary and dataset.json. Theirs trains a word-level vocabulary on the file and encodes all its
lines, in memory. `ratio` uses the tokenizer `whitespace`, which splits this text as theirs does;
`ratio_words_tokenizer` uses our default, `words`.

With `--cores N`: N processes on N cores against one process on one core. With `--scale`: time per
word and memory for growing texts. Every program is a separate process that times its own work:
imports are not timed on either side. No block is left out; the first of each side includes one-time
set-up (`ratio_first_block`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import _data, _sides
from bench._corpus import Corpus, write_corpus
from bench._memory import WatchedSide
from model.config import Config, DataConfig, from_dict, to_dict, with_overrides
from model.errors import InputError

RESULTS = os.path.join(_data.ROOT, "bench", "results", "prepare.jsonl")
MEGABYTE = 10**6
ONE_THREAD = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TOKENIZERS_PARALLELISM": "false",
    **dict.fromkeys(("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"), "1"),
    "RAYON_NUM_THREADS": "1",
}
"""For every program; our worker processes also use one thread."""
PACKAGES = ("charloom", "tensorflow", "tensorflow-text", "apache-beam", "numpy")
THEIRS, THEIRS_FAST = "tokenizers", "tokenizers, encode_batch_fast"
OURS, OURS_WORDS = "charloom", "charloom, words"


def main() -> None:
    """Measures, and prints the figures."""
    options = _parse()
    if options.side:
        _answer_lines(options.side)
        return
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        if options.scale:
            figures = measure_scale(folder, options)
        elif options.cores > 1:
            figures = compare_cores(folder, options)
        else:
            figures = compare_tokenizers(folder, options)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions |= {"python": platform.python_version()} | figures.pop("versions", {})
    report({**figures, "versions": versions, "load_before": load}, save=options.save)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", type=int, default=1, metavar="N", help="number of our processes")
    parser.add_argument("--scale", action="store_true", help="measure growing texts")
    parser.add_argument(
        "--megabytes", type=float, help="size of the text (default: 12; with --cores, 200)"
    )
    parser.add_argument("--scale-megabytes", type=float, nargs="+", default=[100, 400, 1600])
    parser.add_argument(
        "--blocks", type=int, help="blocks per side (default: 5; 3; 1 with --scale)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the text (default: 1)")
    parser.add_argument("--set", action="append", default=[], metavar="data.FIELD=VALUE")
    parser.add_argument("--save", action="store_true", help=f"append the figures to {RESULTS}")
    parser.add_argument("--side", default="", metavar="JOB", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, value in (("cores", options.cores), ("blocks", options.blocks or 1)):
        if value < 1:
            raise InputError(f"--{name} is {value}; it must be at least 1")
    return options


def compare_tokenizers(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compares the stage with tokenizers, one core each; returns the figures.

    Raises:
      InputError: tokenizers is missing, or the sides disagree about words or vocabulary.
    """
    cores = _sides.choose_cores(1)
    find_tokenizers_python()
    config = _read_config(options, tokenizer="whitespace")
    words_config = _read_config(options, tokenizer="words")
    corpus = _write_text(folder, options.megabytes or 12, seed=options.seed)
    sides = [
        tokenizers_side(THEIRS, folder, corpus, config, cores=cores),
        our_side(OURS, folder, corpus, config, cores=cores),
        our_side(OURS_WORDS, folder, corpus, words_config, cores=cores),
        tokenizers_side(THEIRS_FAST, folder, corpus, config, cores=cores),
    ]
    with _running(sides) as said:
        blocks = _take_turns(sides, corpus, blocks=options.blocks or 5)
    advice = f"use a larger text, or --set data.vocab_size below {config.vocab_size}"
    _check_equal("vocabulary", blocks, advice)
    figures = _describe_blocks(corpus, blocks)
    speeds, cpu = figures["words_per_second"], figures["cpu_seconds"]
    first = {name: of_side[0] for name, of_side in figures["blocks"].items()}
    return {
        "ratio": round(speeds[OURS] / speeds[THEIRS], 3),
        "ratio_words_tokenizer": round(speeds[OURS_WORDS] / speeds[THEIRS], 3),
        "ratio_encode_batch_fast": round(speeds[OURS] / speeds[THEIRS_FAST], 3),
        "ratio_first_block": round(first[THEIRS] / first[OURS], 3),
        "ratio_cpu_seconds": round(cpu[THEIRS] / cpu[OURS], 3),
        **figures,
        "vocabulary": blocks[OURS][0]["vocabulary"],
        "output_bytes": blocks[OURS][0]["output_bytes"],
        "versions": said[THEIRS]["versions"],
    }


def compare_cores(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compares N processes on N cores with one on one; returns the figures.

    Raises:
      InputError: too few cores, or the two made different records.
    """
    count = options.cores
    cores = _sides.choose_cores(count)
    config = _read_config(options)
    corpus = _write_text(folder, options.megabytes or 200, seed=options.seed)
    one, many = "1 core", f"{count} cores"
    sides = [
        our_side(one, folder, corpus, config, cores=cores[:1]),
        our_side(many, folder, corpus, config, cores=cores, workers=count),
    ]
    with _running(sides):
        blocks = _take_turns(sides, corpus, blocks=options.blocks or 3)
        peaks = {side.name: side.peak_bytes() for side in sides}
    _check_equal("digest", blocks, "records must not depend on the number of processes")
    figures = _describe_blocks(corpus, blocks)
    speeds = figures["words_per_second"]
    ratio = round(speeds[many] / speeds[one], 3)
    return {"ratio": ratio, "cores": count, **figures, "peak_bytes": peaks}


def measure_scale(folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures time per word and memory for texts of several sizes, each in a single file.

    Each run has its own process, so that peak memory is measured separately.
    """
    count = options.cores
    cores = _sides.choose_cores(count)
    config = _read_config(options)
    rows = []
    for megabytes in options.scale_megabytes:
        corpus = _write_text(folder, megabytes, seed=options.seed)
        name, answers, peaks = f"{megabytes:g} MB", [], []
        for _ in range(options.blocks or 1):
            side = our_side(name, folder, corpus, config, cores=cores, workers=count)
            with _running([side]):
                answers += _take_turns([side], corpus, blocks=1)[name]
                peaks.append(side.peak_bytes())
        os.remove(corpus.path)
        seconds = _median(answers, "seconds")
        row: dict[str, Any] = {
            **_describe_text(corpus),
            "seconds": seconds,
            "seconds_per_million_words": round(seconds / corpus.words * 1e6, 4),
            "cpu_seconds": _median(answers, "cpu_seconds"),
            "peak_bytes": max(peaks),
            "output_bytes": answers[0]["output_bytes"],
        }
        _data.say(
            f"{name}: {row['seconds_per_million_words']:.3f} s per million words, "
            f"{row['peak_bytes'] / MEGABYTE:.0f} MB at most in one process"
        )
        rows.append(row)
    times = [row["seconds_per_million_words"] for row in rows]
    memory = [row["peak_bytes"] for row in rows]
    return {
        "time_spread": round(max(times) / min(times) - 1, 4),
        "memory_spread": round(max(memory) / min(memory) - 1, 4),
        "peak_bytes": max(memory),
        "words": sum(row["words"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "cores": count,
        "sizes": rows,
    }


def our_side(
    name: str,
    folder: str,
    corpus: Corpus,
    config: DataConfig,
    *,
    cores: Sequence[int],
    workers: int = 1,
) -> WatchedSide:
    """Starts our stage as a program; each input line triggers one preparation of the text."""
    job = {
        "text": corpus.path,
        "records": os.path.join(folder, "records"),
        "config": to_dict(config),
        "workers": workers,
    }
    path = _data.write_job(os.path.join(folder, f"{name}.json".replace(" ", "-")), job)
    command = [sys.executable, "-m", "bench.prepare", "--side", path]
    return WatchedSide(name, command, cores=cores, environment=ONE_THREAD)


def tokenizers_side(
    name: str, folder: str, corpus: Corpus, config: DataConfig, *, cores: Sequence[int]
) -> WatchedSide:
    """Starts tokenizers as a program; `THEIRS_FAST` omits the words' positions in the text."""
    encode = "encode_batch_fast" if name == THEIRS_FAST else "encode_batch"
    job = {
        "text": corpus.path,
        "vocab_size": config.vocab_size,
        "min_count": config.min_count,
        "encode": encode,
    }
    path = _data.write_job(os.path.join(folder, f"{encode}.json"), job)
    program = os.path.join(_data.ROOT, "bench", "_tokenizers_side.py")
    command = [find_tokenizers_python(), program, "--job", path]
    return WatchedSide(name, command, cores=cores, environment=ONE_THREAD)


def find_tokenizers_python() -> str:
    """Returns a Python that has tokenizers: the named one, or else our own.

    Raises:
      InputError: there is none.
    """
    named = os.environ.get("CHARLOOM_TOKENIZERS_PYTHON", "")
    if named:
        with contextlib.suppress(OSError):
            silent = subprocess.DEVNULL
            if not subprocess.call([named, "-c", "import tokenizers"], stderr=silent):
                return named
        raise InputError(
            f"CHARLOOM_TOKENIZERS_PYTHON is {named}, which has no tokenizers; install it there"
        )
    if importlib.util.find_spec("tokenizers"):
        return sys.executable
    raise InputError(
        "tokenizers is missing; install it in a separate environment: python3 -m venv "
        "/tmp/tokenizers && /tmp/tokenizers/bin/pip install tokenizers, and set "
        "CHARLOOM_TOKENIZERS_PYTHON=/tmp/tokenizers/bin/python"
    )


def _answer_lines(path: str) -> None:
    """Runs our side: prepares the text of a job once for each line of input."""
    from components.preprocess.main import run  # imports Beam; not timed
    from components.preprocess.passes import scan, write  # noqa: F401  import TensorFlow; not timed

    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    config: DataConfig = from_dict(DataConfig, job["config"], source=path, path="data.")
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            info = run(
                inputs=[job["text"]],
                records=job["records"],
                config=config,
                vocab="",
                beam_workers=job["workers"],
            )
        seconds = time.perf_counter() - started
        answer = {
            "words": sum(split["words"] for split in info["splits"].values()),
            "seconds": seconds,
            "vocabulary": info["vocab"]["size"],
            "digest": info["digest"],
            "output_bytes": sum(entry.stat().st_size for entry in os.scandir(job["records"])),
        }
        shutil.rmtree(job["records"])
        print(json.dumps(answer), flush=True)


def _read_config(options: argparse.Namespace, **fields: Any) -> DataConfig:
    """Returns the config of a mode; line ends are not words, as in tokenizers."""
    config = Config(data=DataConfig(sentence_marks=False, **fields))
    return with_overrides(config, options.set).data


def _write_text(folder: str, megabytes: float, *, seed: int) -> Corpus:
    """Writes the text.

    Raises:
      InputError: there is not enough space for it and its records.
    """
    size = int(megabytes * MEGABYTE)
    if (free := shutil.disk_usage(folder).free) < 5 * size:
        raise InputError(
            f"{folder} has {free / MEGABYTE:.0f} MB free, and a text of {megabytes:g} MB with its "
            f"records needs {5 * megabytes:g}; set TMPDIR to a larger file system"
        )
    corpus = write_corpus(os.path.join(folder, f"{megabytes:g}-MB.txt"), size=size, seed=seed)
    _data.say(f"{megabytes:g} MB: {corpus.words} words, {corpus.distinct} distinct")
    return corpus


@contextlib.contextmanager
def _running(sides: Sequence[WatchedSide]) -> Iterator[dict[str, dict[str, Any]]]:
    """Waits until all sides are ready, yields their first answers, and ends them afterwards."""
    try:
        yield {side.name: side.get_ready() for side in sides}
    finally:
        for side in sides:
            side.close()


def _take_turns(
    sides: Sequence[WatchedSide], corpus: Corpus, *, blocks: int
) -> dict[str, list[dict[str, Any]]]:
    """Returns each side's answers; a block is one run over the whole text.

    Raises:
      InputError: a side lost or invented words.
    """
    answers: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    by_name = {side.name: side for side in sides}
    before = {name: side.cpu_seconds() for name, side in by_name.items()}

    def keep(name: str, answer: dict[str, Any]) -> None:
        if answer["words"] != corpus.words:
            raise InputError(
                f"{name} made {answer['words']} words of a text of {corpus.words}; they can't be "
                "compared: remove the --set that changes what a word is"
            )
        used = by_name[name].cpu_seconds()
        answer["cpu_seconds"], before[name] = used - before[name], used
        answers[name].append(answer)

    _sides.interleave(sides, blocks=blocks, seconds=0.0, done=keep)  # both ignore the seconds
    return answers


def _check_equal(what: str, blocks: Mapping[str, list[dict[str, Any]]], advice: str) -> None:
    """Raises InputError unless a value is the same in all answers that have it."""
    said = {
        name: sorted({answer[what] for answer in answers if what in answer})
        for name, answers in blocks.items()
    }
    if len({value for values in said.values() for value in values}) > 1:
        raise InputError(f"{what} differs ({said}); {advice}")


def _describe_text(corpus: Corpus) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(corpus).items() if key != "path"}


def _describe_blocks(
    corpus: Corpus, blocks: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """Returns sizes of the text, medians of each side, and the seconds of its blocks."""
    medians = {name: _median(of_side, "seconds") for name, of_side in blocks.items()}
    return {
        **_describe_text(corpus),
        "words_per_second": {name: round(corpus.words / value) for name, value in medians.items()},
        "seconds": medians,
        "cpu_seconds": {name: _median(of_side, "cpu_seconds") for name, of_side in blocks.items()},
        "blocks": {
            name: [round(a["seconds"], 3) for a in of_side] for name, of_side in blocks.items()
        },
    }


def _median(answers: Sequence[dict[str, Any]], key: str) -> float:
    return _sides.median([answer[key] for answer in answers])


def report(figures: dict[str, Any], *, save: bool, path: str = RESULTS) -> None:
    """Prints the figures as the last line; `save` appends them, with date and command, to a file."""
    if save:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        command = shlex.join(["python", "-m", "bench.prepare", *sys.argv[1:]])
        machine = f"{_sides._processor()}, {len(os.sched_getaffinity(0))} cores"
        with open(path, "a", encoding="utf-8") as file:
            line = {"date": now, "command": command, **figures, "machine": machine}
            file.write(json.dumps(line) + "\n")
    _sides.print_result(**figures)


if __name__ == "__main__":
    _sides.run_main(main)
