"""What stands for a corpus of 64 GB, where a process may open 256 files.

Its 1,024 shards are sparse files, and its 8,192 units of text share the files of a few.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.preprocess.passes.row_files import RowFile
from components.preprocess.passes.scratch_files import INDEX_COLUMNS, index_path
from components.preprocess.passes.word_counts import WordCounter
from model.config import CONFIG_VERSION, DataConfig, to_dict
from model.data.example_writer import RecordEncoder, frame
from model.data.records import FORMAT_VERSION, SPLITS, save_index, shard_name
from model.text.vocab import Vocabulary

SHARD_BYTES = 64 << 20
RECORDS = 11_000
"""Records of a shard, of 1,024 words."""

LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
"""

END_OF_PREPARE = """
import json, os, sys
from components.preprocess.main import _save_index
from components.preprocess.passes.word_counts import build_vocabulary, describe_split

scratch, folder, groups = sys.argv[1], sys.argv[2], int(sys.argv[3])
paths = sorted(entry.path for entry in os.scandir(scratch) if entry.name.endswith(".counts"))
vocab = build_vocabulary(paths, max_size=1000, min_count=1)
known = describe_split(paths, "train", vocab)
saved = _save_index(folder, scratch, "train", groups)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
print(json.dumps([memory, sum(vocab.counts), known.distinct, saved["text"]["text_characters"]]))
"""

READ = """
import os, sys
from model.data.batches import LaneReader, train_batch
from model.data.plan import TrainPlan
from model.data.records import Dataset

with Dataset.open(sys.argv[1]) as dataset:
    plan = TrainPlan(dataset.lengths("train"), lanes=64, window=32, seed=1)
    reader = LaneReader(dataset, "train", max_word_bytes=20, window=32)
    words = sum(train_batch(plan, reader, 40 * step, range(64)).weights.sum() for step in range(60))
    print(int(words), len(os.listdir("/proc/self/fd")) < 100)
"""


def run_limited(program: str, *arguments: object) -> str:
    """Runs a program that may open 256 files; returns what it prints."""
    command = [sys.executable, "-c", LIMITED + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def end_of_prepare(folder: Path, groups: int) -> list[int]:
    """Returns memory, words, distinct words and characters of what ends `prepare`."""
    scratch, records = folder / f"scratch {groups}", folder / f"records {groups}"
    scratch.mkdir()
    records.mkdir()
    counter = WordCounter(str(scratch), "first")
    counter.add("train", [b"word%d" % number for number in range(2000)], [3] * 2000)
    counter.flush()
    rows = np.arange(1, RECORDS + 1).repeat(INDEX_COLUMNS).reshape(-1, INDEX_COLUMNS)
    with open(index_path(str(scratch), "train", 0), "wb") as file:
        index = RowFile(file, rows.dtype, INDEX_COLUMNS)
        index.append(rows)
        index.finish()
    for unit in range(1, 8 * groups):
        os.link(scratch / counter.files[0], scratch / f"{unit:08d}.train.counts")
    for group in range(1, groups):
        os.link(index_path(str(scratch), "train", 0), index_path(str(scratch), "train", group))
    found: list[int] = json.loads(run_limited(END_OF_PREPARE, scratch, records, groups))
    return found


@pytest.mark.slow
@pytest.mark.extra("test_components_preprocess_passes_row_files.py")
def test_the_end_of_prepare_takes_no_more_memory_for_more_text(tmp_path: Path) -> None:
    found = {groups: end_of_prepare(tmp_path, groups) for groups in (32, 1024)}
    for groups, (_, words, distinct, characters) in found.items():
        assert words == 8 * groups * 6000
        assert distinct == 2000
        assert characters == groups * RECORDS * (RECORDS + 1) // 2
    assert found[1024][0] < found[32][0] + (48 << 20)  # for 11 million more records


def write_dataset(folder: Path, shards: int) -> None:
    """Writes records of which each shard has one, at its start."""
    folder.mkdir()
    vocab = Vocabulary.build({b"a": 9}, max_size=8, min_count=1)
    vocab.save(str(folder / "vocab.txt"))
    words = np.asarray([0] * (RECORDS // 10 + 1), np.int32)
    record = frame(RecordEncoder([b"a"], [3]).encode(words, source="f:0"))
    lengths = [len(words) - 1] * 8
    splits: dict[str, Any] = {}
    for split in SPLITS:
        entries = []
        for number in range(shards):
            name = shard_name(split, number, shards)
            (folder / name).write_bytes(record)
            os.truncate(folder / name, SHARD_BYTES)
            entries.append({"file": name, "records": len(lengths), "bytes": SHARD_BYTES})
        part = np.stack([np.zeros(len(lengths), np.int64), np.asarray(lengths)], axis=1)
        index = save_index(str(folder), split, [part] * shards)
        splits[split] = {"records": shards * len(lengths), "shards": entries, "index": index}
    info = {
        "format_version": FORMAT_VERSION,
        "config_version": CONFIG_VERSION,
        "config": to_dict(DataConfig()),
        "vocab": {"size": len(vocab), "sha256": vocab.digest},
        "splits": splits,
        "digest": "sparse",
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    (folder / "COMPLETED").write_text("sparse\n")


@pytest.mark.slow
@pytest.mark.extra("test_model_data_shard_files.py")
def test_a_training_reads_1024_shards_of_64_mib(tmp_path: Path) -> None:
    write_dataset(tmp_path / "records", 1024)
    assert run_limited(READ, tmp_path / "records") == f"{60 * 64 * 32} True\n"
