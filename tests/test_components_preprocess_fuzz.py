"""Hostile input: each ends in a whole folder or in one clear error, and no word is lost."""

from __future__ import annotations

import bz2
import gzip
import random
from pathlib import Path

import pytest
import tensorflow as tf
import zstandard
from blocks import unpack
from tokenizing import tokenize_text
from volume import keep_first

from components.preprocess.inputs.listing import find_files
from components.preprocess.main import run
from components.preprocess.passes import work_units
from components.preprocess.passes.corpus_scan import CorpusScan, accept, check_splits
from components.preprocess.passes.file_scans import scans_of_files
from components.preprocess.passes.scan import load_pieces, scan_unit
from components.preprocess.passes.scratch_files import pieces_path
from components.preprocess.passes.word_counts import WordCounter, build_vocabulary
from components.preprocess.passes.work_units import make_units
from components.preprocess.passes.write import write_group
from components.preprocess.sources import blocks
from model.config import BAD_TEXT, DOCUMENTS, TOKENIZERS, DataConfig
from model.data.records import Dataset
from model.errors import InputError

CASES = 2000
BATCH = 40
SIGNS = (
    *("word ", "and ", "\n", "\r\n", "\r", "\n\n", "\t", " ", "\x0b", "\x0c", "\x85", "\u2028"),
    *("\u200f", "\u202e", "\u2066", "\ufeff", "\xad", "e\u0301", "👩\u200d👧", "🇩🇪", "\ufffd"),
    *("</s>", "<unk>", "\x1b[31m", "'; --", "中文", "ไทย", "ﷺ", "𐍈"),
)
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}


def hostile(chance: random.Random) -> tuple[str, bytes]:
    """Returns the ending of a name, and bytes."""
    text = "".join(chance.choices(SIGNS, k=chance.randrange(200)))
    data = text.encode()
    kind = chance.randrange(12)
    if kind == 0:
        data = chance.randbytes(chance.randrange(300))
    elif kind == 1:
        data = data + b"\xed\xa0\x80" + data  # a lone surrogate
    elif kind == 2:
        data = data + b"\0" + data
    elif kind == 3:
        data = b"\xef\xbb\xbf" * chance.randrange(1, 3) + data
    elif kind == 4:
        data = chance.choice([b"x", "é".encode(), b" ", b"\n", b"-"]) * 1_000_000
    elif kind == 5:
        data = text.encode(chance.choice(["utf-16", "utf-32"]))
    elif kind == 6:
        data = data.replace(b"e", chance.choice([b"\xe9", b"\xc3", b"\xf0\x9f"]))
    elif kind in (7, 8):
        ending = chance.choice([*PACKERS])
        packed = PACKERS[ending](data)
        if kind == 8:
            packed = packed[: chance.randrange(len(packed))]
        return ending, packed
    elif kind == 9:
        data = chance.choice([b"", b"\n", b" \t\r\n", "\u3000\u2028".encode(), b"\xef\xbb\xbf"])
    return chance.choice([".txt", "", ".TXT"]), data


def unpacked(name: str, data: bytes) -> bytes:
    for ending, reader in ((".gz", gzip), (".bz2", bz2), (".zst", zstandard)):
        if name.endswith(ending):
            return reader.decompress(data)
    return data


@pytest.mark.slow
@pytest.mark.parametrize("batch", keep_first(range(CASES // BATCH)))
def test_each_hostile_file_is_whole_or_refused(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that `prepare` does to a file, without Beam between."""
    for case in range(BATCH):
        chance = random.Random(batch * BATCH + case)
        block = chance.choice([7, 100, 8 << 20])
        ending, data = hostile(chance)
        if len(data) > 100_000:
            block = max(block, 50_000)
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
        monkeypatch.setattr(work_units, "BLOCK_BYTES", block)
        config = DataConfig(
            tokenizer=chance.choice(TOKENIZERS),
            lowercase=chance.random() < 0.5,
            sentence_marks=chance.random() < 0.5,
            document=chance.choice(DOCUMENTS),
            on_bad_text=chance.choice(BAD_TEXT),
            record_words=chance.choice([8, 50, 1024]),
            min_count=1,
            valid_fraction=0.0,
            test_fraction=0.0,
        )
        folder = tmp_path / str(case)
        (folder / "records").mkdir(parents=True)
        path = folder / f"f{ending}"
        path.write_bytes(data)
        words = prepare_without_beam(path, folder / "records", config)
        if words is not None:
            text = unpacked(path.name, data).removeprefix(b"\xef\xbb\xbf")
            text = text.decode("utf-8", "replace").encode()
            assert words == tokenize_text(tf.constant(text), config).numpy().tolist(), (batch, case)


def prepare_without_beam(path: Path, folder: Path, config: DataConfig) -> list[bytes] | None:
    """Returns the words that all records predict, None if the file was refused."""
    parts = list(make_units(find_files([str(path)]), config))
    counters = [WordCounter(str(folder), str(unit.index)) for unit in parts]
    scans = [
        scan
        for unit, counter in zip(parts, counters, strict=True)
        for scan in scan_unit(unit, config, folder=str(folder), counter=counter)
    ]
    try:
        scan = CorpusScan(scans_of_files(scans, config))
        accept(scan, config)
        check_splits(scan, config)
    except InputError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert str(path) in message or "no training words" in message
        assert "\n" not in message
        return None
    for counter in counters:
        counter.flush()
    paths = [str(folder / name) for counter in counters for name in counter.files]
    vocab = build_vocabulary(paths, max_size=1 << 20, min_count=1)
    group = write_group(
        0,
        [unit.index for unit in parts],
        folder=str(folder),
        scratch=str(folder),
        count=1,
        vocab=vocab,
    )
    pieces = [
        piece
        for unit in parts
        for block in load_pieces(pieces_path(str(folder), unit.index))
        for piece in unpack(block)
    ]
    words = [word for piece in pieces for word in piece.words[1:]]
    shard = group["splits"]["train"]["shard"]
    assert (shard["records"], shard["words"]) == (len(pieces), len(words))
    assert sum(vocab.counts) == len(words)
    return words


@pytest.mark.slow
@pytest.mark.parametrize("on_bad_text", keep_first(["skip", "replace"]))
def test_a_folder_of_hostile_files(on_bad_text: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(200):
        ending, data = hostile(random.Random(seed))
        (tmp_path / "in" / f"{seed:04d}{ending}").write_bytes(data)
    config = DataConfig(on_bad_text=on_bad_text, record_words=50)
    info = run(inputs=[str(tmp_path / "in")], records=str(tmp_path / "records"), config=config)
    assert info["input"]["files"] == 200
    assert 0 < sum(info["rejected"].values()) < 200
    with Dataset.open(str(tmp_path / "records")) as dataset:
        for split in info["splits"]:
            lengths = dataset.lengths(split)
            assert sum(lengths) == info["splits"][split]["words"]
            for index in range(len(lengths)):
                assert dataset.read(split, index).words == lengths[index]
