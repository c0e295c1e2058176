"""The benchmark of the data stage: its text, its watch over memory, and its modes as programs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # bench is not installed

from bench import prepare
from bench._corpus import CHUNK_WORDS, Corpus, draw_ranks, spell_words, write_corpus
from bench._memory import TreeWatch
from model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20


def write(folder: Path, size: int, *, seed: int = 1) -> tuple[Corpus, bytes]:
    path = folder / f"{size}-{seed}.txt"
    corpus = write_corpus(str(path), size=size, seed=seed)
    return corpus, path.read_bytes()


# The text.


def test_text_is_the_same_everywhere(tmp_path: Path) -> None:
    corpus, text = write(tmp_path, 1_000_000)
    assert (corpus.bytes, corpus.words, corpus.lines) == (999_857, 174_557, 8_781)
    assert corpus.distinct == 11_539
    assert hashlib.sha256(text).hexdigest() == (
        "b8ae91100ff45ca500cad470abff1f02aa9e50c1b093fecf40c8e1aba40ddf58"
    )


def test_another_seed_gives_another_text_of_the_same_words(tmp_path: Path) -> None:
    _, one = write(tmp_path, 300_000, seed=1)
    _, two = write(tmp_path, 300_000, seed=2)
    assert one != two
    assert set(one.split()) & set(two.split()) > {b"ta", b"re", b"tata"}


def test_counts_are_those_of_the_text(tmp_path: Path) -> None:
    corpus, text = write(tmp_path, 3_200_000)
    assert corpus.words > 2 * CHUNK_WORDS  # so whole chunks and a part of one were written
    assert (corpus.bytes, corpus.lines) == (len(text), text.count(b"\n"))
    words = text.split()
    assert (corpus.words, corpus.distinct) == (len(words), len(set(words)))


def test_lines_are_words_of_letters_with_single_spaces(tmp_path: Path) -> None:
    _, text = write(tmp_path, 3_200_000)
    assert re.fullmatch(rb"(?:[a-z]+(?: [a-z]+)*\n)+", text)


def test_a_small_text_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    _, large = write(tmp_path, 3_200_000)
    chunk = write_corpus(str(tmp_path / "chunk"), size=3_200_000).bytes // 2
    for size in (500, 12_345, 1_499_000, chunk, 3_000_001):
        small, text = write(tmp_path, size)
        assert large.startswith(text)
        assert text.endswith(b"\n")
        following = large.index(b"\n", len(text)) + 1
        assert small.bytes <= size < following  # one more line would be too much


def test_a_line_that_ends_at_the_size_is_kept(tmp_path: Path) -> None:
    corpus, text = write(tmp_path, 100_000)
    exact, again = write(tmp_path, corpus.bytes)
    assert (exact.words, again) == (corpus.words, text)
    less, _ = write(tmp_path, corpus.bytes - 1)
    assert less.lines == corpus.lines - 1


def test_a_chunk_that_just_fits_is_kept_whole(tmp_path: Path) -> None:
    _, large = write(tmp_path, 2_000_000)
    words = list(re.finditer(rb"[a-z]+[ \n]", large))
    end = words[CHUNK_WORDS - 1].end()
    assert large[end - 1 : end] == b"\n"
    assert write(tmp_path, end)[0].words == CHUNK_WORDS
    assert write(tmp_path, end - 1)[0].words < CHUNK_WORDS


def test_distinct_words_grow_by_heaps_law(tmp_path: Path) -> None:
    small, large = (write(tmp_path, size)[0] for size in (1_000_000, 4_000_000))
    exponent = math.log(large.distinct / small.distinct) / math.log(large.words / small.words)
    assert exponent == pytest.approx(0.6, abs=0.01)


def test_frequencies_follow_the_law() -> None:
    ranks = draw_ranks(np.random.default_rng(7), 1_000_000)
    for rank in (1, 100, 10_000, 1_000_000):
        expected = (1 + rank / 50) ** (-2 / 3)  # P(rank or rarer)
        assert np.mean(ranks >= rank) == pytest.approx(expected, rel=0.05)


def test_spellings() -> None:
    ranks = np.array([0, 11, 12, 155, 156, 2_000_000_000])
    spelled = [bytes(row).rstrip(b"\0") for row in spell_words(ranks)]
    assert spelled == [b"ta", b"ru", b"tata", b"ruru", b"tatata", b"likadodomekalisido"]
    assert len({bytes(row) for row in spell_words(np.arange(30_000))}) == 30_000


def test_a_size_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a text of 3 bytes has no room for a line"):
        write_corpus(str(tmp_path / "text"), size=3)


# The watch over memory.


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """Runs Python code that says when it is ready, and ends it with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate()


SAY = "import sys; print('ready', flush=True); sys.stdin.read()\n"
LARGE = "text = b'x' * (200 << 20); del text\n" + SAY
BUSY = "import time\nwhile time.process_time() < 0.5: pass\n" + SAY


def in_child(code: str) -> str:
    """Returns code that runs code in a process of its own."""
    return f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])\n"


def test_peak_is_that_of_a_descendant_though_it_gave_the_memory_back() -> None:
    with running(in_child(LARGE)) as process:
        watch = TreeWatch(process.pid, interval=60)  # only the looks that we take
        watch.look()
        assert watch.processes() == 2
        assert 200 * MIB < watch.peak_bytes() < 260 * MIB
    watch.look()
    assert 200 * MIB < watch.peak_bytes() < 260 * MIB  # it stays when all have ended


def test_other_processes_do_not_count() -> None:
    with running(LARGE), running(SAY) as process:
        watch = TreeWatch(process.pid, interval=60)
        watch.look()
        assert watch.processes() == 1
        assert 2 * MIB < watch.peak_bytes() < 60 * MIB


def test_the_thread_finds_a_process_that_starts_later() -> None:
    code = "import sys; print('ready', flush=True); sys.stdin.readline()\n" + in_child(LARGE)
    with running(code) as process, TreeWatch(process.pid, interval=0.01) as watch:
        assert (watch.processes(), watch.peak_bytes() < 60 * MIB) == (1, True)
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        deadline = time.monotonic() + 300
        while watch.peak_bytes() < 200 * MIB and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watch.peak_bytes() > 200 * MIB
        assert watch.processes() == 2


def test_processor_time_of_those_that_ended_counts() -> None:
    with running(in_child(BUSY)) as process:
        watch = TreeWatch(process.pid, interval=60)
        assert 0.45 < watch.cpu_seconds() < 1.5  # the kernel counts in hundredths
    assert 0.45 < watch.cpu_seconds() < 1.5  # the kernel counts in hundredths


def test_memory_of_writing_does_not_grow_with_the_text(tmp_path: Path) -> None:
    peaks = []
    for size in (4_000_000, 40_000_000):
        call = f"write_corpus({str(tmp_path / 'text')!r}, size={size})\n"
        with running("from bench._corpus import write_corpus\n" + call + SAY) as process:
            watch = TreeWatch(process.pid)
            watch.look()
            peaks.append(watch.peak_bytes())
    assert peaks[1] < peaks[0] + 18 * MIB  # half of what the text is larger


# What the modes share.


def test_tokenizers_are_looked_for_in_the_named_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code in (("with", 0), ("without", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("CHARLOOM_TOKENIZERS_PYTHON", str(tmp_path / "with"))
    assert prepare.find_tokenizers_python() == str(tmp_path / "with")
    for name in ("without", "missing"):
        monkeypatch.setenv("CHARLOOM_TOKENIZERS_PYTHON", str(tmp_path / name))
        with pytest.raises(InputError, match=f"{name}, which has no tokenizers; install it"):
            prepare.find_tokenizers_python()


def test_sides_must_agree() -> None:
    same: dict[str, Any] = {
        "a": [{"vocabulary": 8}, {"vocabulary": 8}],
        "b": [{"vocabulary": 8}],
        "c": [{}],
    }
    prepare._check_equal("vocabulary", same, "advice")
    other: dict[str, Any] = {
        "a": [{"vocabulary": 8}, {"vocabulary": 7}, {"vocabulary": 8}],
        "b": [],
    }
    with pytest.raises(InputError, match=r"vocabulary differs \(\{'a': \[7, 8\].*\); advice"):
        prepare._check_equal("vocabulary", other, "advice")


def test_medians_of_blocks() -> None:
    corpus = Corpus(path="text", bytes=50, words=10, lines=2, distinct=7)
    of_side = [{"seconds": s, "cpu_seconds": s / 2} for s in (8.0, 2.0, 4.0)]
    assert prepare._describe_blocks(corpus, {"a": of_side}) == {
        "bytes": 50,
        "words": 10,
        "lines": 2,
        "distinct": 7,
        "words_per_second": {"a": 2},
        "seconds": {"a": 4.0},
        "cpu_seconds": {"a": 2.0},
        "blocks": {"a": [8.0, 2.0, 4.0]},
    }


def test_figures_are_the_last_line_and_saved_with_date_and_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prepare.jsonl"
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--cores", "2", "--save"])
    prepare.report({"ratio": 1.5}, save=False, path=str(path))
    assert not path.exists()
    for _ in range(2):
        prepare.report({"ratio": 1.5}, save=True, path=str(path))
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    saved = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(saved) == 2
    assert saved[1].pop("command") == "python -m bench.prepare --cores 2 --save"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", saved[1].pop("date"))
    assert saved[1] == printed
    assert printed["ratio"] == 1.5


def test_a_text_without_room_on_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set TMPDIR to a larger file system"):
        prepare._write_text(str(tmp_path), 1e12, seed=1)
    assert os.listdir(tmp_path) == []


# The modes, as programs.


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.prepare", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def figures_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"tensorflow", "apache-beam", "numpy", "python"} <= set(figures["versions"])
    assert "cores" in figures["machine"]
    return figures


@pytest.mark.slow
@pytest.mark.extra
def test_comparison_with_tokenizers() -> None:
    try:
        prepare.find_tokenizers_python()
    except InputError as error:
        pytest.skip(str(error))
    done = run_bench("--megabytes=1", "--blocks=1", "--set=data.vocab_size=1024")
    figures = figures_of(done)
    assert (figures["words"], figures["vocabulary"]) == (174_557, 1024)
    speeds = figures["words_per_second"]
    assert set(speeds) == {prepare.THEIRS, prepare.THEIRS_FAST, prepare.OURS, prepare.OURS_WORDS}
    assert figures["ratio"] == round(speeds["charloom"] / speeds["tokenizers"], 3)
    assert figures["versions"]["tokenizers"]


@pytest.mark.slow
@pytest.mark.extra
def test_comparison_of_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    figures = figures_of(run_bench("--cores=2", "--megabytes=1", "--blocks=1"))
    speeds = figures["words_per_second"]
    assert figures["ratio"] == round(speeds["2 cores"] / speeds["1 core"], 3)
    assert figures["words"] == 174_557
    assert min(figures["peak_bytes"].values()) > 50 * MIB


@pytest.mark.slow
@pytest.mark.extra
def test_scale() -> None:
    figures = figures_of(run_bench("--scale", "--scale-megabytes", "1", "2"))
    small, large = figures["sizes"]
    assert (small["words"], small["distinct"]) == (174_557, 11_539)
    assert (large["words"], large["distinct"]) == (349_289, 17_416)
    for spread, key in (("time", "seconds_per_million_words"), ("memory", "peak_bytes")):
        values = sorted([small[key], large[key]])
        assert figures[f"{spread}_spread"] == round(values[1] / values[0] - 1, 4)


@pytest.mark.slow
def test_words_that_are_not_those_of_the_text_end_the_comparison() -> None:
    done = run_bench("--scale", "--scale-megabytes=1", "--set=data.sentence_marks=true")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"bench: 1 MB made {174_557 + 8_781} words of a text of 174557; they can't be "
        "compared: remove the --set that changes what a word is"
    )
