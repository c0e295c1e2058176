from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.config import TrainConfig
from model.data import batches
from model.data.batches import Batch, LaneReader, eval_batch, padded_size, train_batch
from model.data.plan import EvalPlan, Segment, TrainPlan
from model.data.records import Record, encode_record, parse_record
from model.data.target_sampling import TargetSampler
from model.text.spelling import CHAR_BEGIN, CHAR_BOS, CHAR_END, CHAR_PAD, spell
from model.text.vocab import BOS_ID, DOCUMENT_START, LINE_END, UNK_ID, Vocabulary

WIDTH = 6
VOCAB = Vocabulary.build(
    {b"a": 9, b"bb": 8, b"ccc": 7, "é".encode(): 6, LINE_END: 5}, max_size=99, min_count=1
)
STREAMS = [
    [DOCUMENT_START, b"a", b"bb", b"rare", b"unknown1", b"unknown2", LINE_END, b"a"],
    [b"a", b"ccc", "é".encode(), b"bb", LINE_END],
    [DOCUMENT_START, b"x" * 40, b"a"],
]
"""A document, the piece after it, and another document."""


class Memory:
    """Records in memory, as `model.data.batches.RecordSource` wants them."""

    def __init__(self, streams: Sequence[Sequence[bytes]], vocab: Vocabulary = VOCAB):
        self.reads: list[int] = []
        self._data = [encode_record(words, vocab, source="here") for words in streams]

    def read(self, split: str, index: int) -> Record:
        assert split == "train"
        self.reads.append(index)
        return parse_record(self._data[index])


def make_reader(window: int, streams: Sequence[Sequence[bytes]] = STREAMS) -> LaneReader:
    return LaneReader(Memory(streams), "train", max_word_bytes=WIDTH, window=window)


def row(word: bytes, width: int = WIDTH) -> list[int]:
    """Returns the row of a word, laid out by hand."""
    chars = [CHAR_BEGIN, *spell(word)[: width - 2], CHAR_END]
    return chars + [CHAR_PAD] * (width - len(chars))


def spelled(batch: Batch) -> list[list[list[int]]]:
    """Returns the spelling of every place of a batch."""
    rows: list[list[list[int]]] = batch.char_ids[batch.index].tolist()
    return rows


def test_batch_exactly() -> None:
    segments = [[Segment(0, 5, 7), Segment(1, 0, 2)], [Segment(2, 0, 2)]]
    batch = make_reader(4).batch(segments, [False, True])
    a, ccc, eos = VOCAB.ids[b"a"], VOCAB.ids[b"ccc"], VOCAB.ids[LINE_END]
    accent = VOCAB.ids["é".encode()]
    assert batch.word_ids.tolist() == [[UNK_ID, eos, a, ccc], [BOS_ID, UNK_ID, BOS_ID, BOS_ID]]
    assert batch.targets.tolist() == [[eos, a, ccc, accent], [UNK_ID, a, 0, 0]]
    assert batch.weights.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.records.tolist() == [[0, 0, 1, 1], [2, 2, 0, 0]]
    assert batch.fresh.tolist() == [False, True]
    assert spelled(batch) == [
        [row(b"unknown2"), row(LINE_END), row(b"a"), row(b"ccc")],
        [row(DOCUMENT_START), row(b"x" * 40), row(DOCUMENT_START), row(DOCUMENT_START)],
    ]
    whole = (batch.word_ids, batch.targets, batch.words, batch.char_ids, batch.index)
    assert {array.dtype for array in whole} == {np.dtype("int32")}
    assert batch.weights.dtype == np.float32


def test_targets_are_the_next_words() -> None:
    lengths = np.asarray([len(words) - 1 for words in STREAMS])
    plan = TrainPlan(lengths, lanes=2, window=3, seed=1)
    reader = make_reader(3)
    for step in range(3 * plan.steps_per_epoch):
        batch = train_batch(plan, reader, step, range(2))
        for lane in range(2):
            read = [
                (STREAMS[s.record][i], STREAMS[s.record][i + 1])
                for s in plan.step_segments(step)[lane]
                for i in range(s.start, s.stop)
            ]
            words, targets = zip(*read, strict=True)
            assert batch.word_ids[lane].tolist() == VOCAB.encode(words)
            assert batch.targets[lane].tolist() == VOCAB.encode(targets)
            assert spelled(batch)[lane] == [row(word) for word in words]
        assert batch.weights.all()
        assert not batch.fresh.any()  # the state is carried on over records


def test_distinct_spellings_come_once() -> None:
    batch = make_reader(8).batch([[Segment(0, 0, 7)], [Segment(1, 0, 4)]], [False, False])
    rows = batch.char_ids.tolist()
    assert len({tuple(one) for one in rows}) == len(rows)
    # unknown1 and unknown2 look alike in four characters; a and bb come in both lanes.
    words = {*STREAMS[0][:7], *STREAMS[1][:4]}
    assert len(words) == 9
    assert {tuple(one) for one in rows} == {tuple(row(word)) for word in words}
    assert len(rows) == 8
    assert batch.index.min() == 0
    assert batch.index.max() == len(rows) - 1
    assert (batch.words[batch.index] == batch.word_ids).all()


def test_the_order_of_distinct_words() -> None:
    # Known words by id, then unknown ones by spelling, wherever they stand.
    stream = [DOCUMENT_START, *(b"zz", b"ccc", b"a", "é".encode(), b"zy", b"z", LINE_END, b"zz")]
    reader = make_reader(8, [stream, [*stream[:1], *stream[:0:-1]]])
    expected = [LINE_END, DOCUMENT_START, b"a", b"ccc", "é".encode(), b"z", b"zy", b"zz"]
    for record in range(2):
        batch = reader.batch([[Segment(record, 1, 8)], [Segment(record, 0, 1)]], [False, False])
        assert batch.words.tolist() == VOCAB.encode(expected)
        assert batch.char_ids.tolist() == [row(word) for word in expected]


def test_characters_above_a_byte_are_in_order_too() -> None:
    # Their ids are 255, 256 and 260.
    stream = [DOCUMENT_START, b"\xff", b"\xfa", b"\xfb"]
    batch = make_reader(3, [stream]).batch([[Segment(0, 1, 3), Segment(0, 0, 1)]], [False])
    assert batch.char_ids[:, 1].tolist() == [CHAR_BOS, 255, 260]


@pytest.mark.parametrize(
    ("distinct", "rows"),
    [(0, 0), (1, 1), (15, 15), (16, 16), (17, 18), (18, 18), (31, 32), (33, 36), (64, 64)]
    + [(65, 72), (1000, 1024), (1025, 1152), (1152, 1152), (1153, 1280), (2240, 2304)],
)
def test_padded_size(distinct: int, rows: int) -> None:
    assert padded_size(distinct) == rows


def test_padded_sizes_are_few() -> None:
    sizes = [padded_size(distinct) for distinct in range(1, 4097)]
    assert sizes == sorted(sizes)
    assert len({size for size in sizes if size > 1024}) == 16
    for distinct, size in enumerate(sizes, start=1):
        assert padded_size(size) == size
        assert distinct <= size <= max(distinct, 9 * distinct / 8)


@pytest.mark.parametrize("distinct", [16, 17, 18, 19, 41, 44])
def test_padding_repeats_the_first_word_and_is_never_read(distinct: int) -> None:
    words = [DOCUMENT_START, *(str(number).encode() for number in range(distinct - 1)), b"a"]
    reader = make_reader(distinct, [words])
    batch = reader.batch([[Segment(0, 0, distinct)]], [False])
    rows = padded_size(distinct)
    assert batch.words.shape == (rows,)
    assert batch.char_ids.shape == (rows, WIDTH)
    assert len({tuple(one) for one in batch.char_ids.tolist()}) == distinct
    assert sorted(batch.index.ravel().tolist()) == list(range(distinct))
    assert batch.words[distinct:].tolist() == [BOS_ID] * (rows - distinct)
    assert batch.char_ids[distinct:].tolist() == [row(DOCUMENT_START)] * (rows - distinct)


def test_words_that_look_alike_in_w_bytes_are_told_apart_by_their_ids() -> None:
    # Both in the vocabulary, and the same in the first W - 2 bytes.
    words = [b"international", b"internationally", b"internationals"]
    vocab = Vocabulary.build(dict.fromkeys(words[:2], 5), max_size=99, min_count=1)
    memory = Memory([[DOCUMENT_START, *words, *words, words[0]]], vocab)
    reader = LaneReader(memory, "train", max_word_bytes=WIDTH, window=7)
    batch = reader.batch([[Segment(0, 0, 7)]], [False])
    one, two = vocab.ids[words[0]], vocab.ids[words[1]]
    assert batch.word_ids.tolist() == [[BOS_ID, one, two, UNK_ID, one, two, UNK_ID]]
    assert batch.words[batch.index].tolist() == batch.word_ids.tolist()
    assert sorted(batch.words.tolist()) == sorted([BOS_ID, one, two, UNK_ID])
    assert spelled(batch)[0] == [row(DOCUMENT_START), *([row(words[0])] * 6)]


def test_very_long_words() -> None:
    stream = [DOCUMENT_START, b"a" * 100_000, b"b", b"a" * 99_999, "é".encode() * 5, b"aaaa", b"a"]
    batch = make_reader(6, [stream]).batch([[Segment(0, 0, 6)]], [False])
    assert spelled(batch)[0] == [row(word) for word in stream[:6]]
    assert batch.index[0, 1] == batch.index[0, 3] == batch.index[0, 5]
    assert len(batch.words) == 4


def test_unknown_words_keep_their_spellings() -> None:
    batch = make_reader(7).batch([[Segment(0, 0, 7)]], [False])
    at = STREAMS[0].index(b"rare")
    assert batch.word_ids[0, at] == batch.word_ids[0, at + 1] == UNK_ID
    assert spelled(batch)[0][at] != spelled(batch)[0][at + 1]


@pytest.mark.parametrize("parts", [[range(0, 2), range(2, 4)], [range(n, n + 1) for n in range(4)]])
def test_workers_together_read_the_global_batch(parts: list[range]) -> None:
    streams = [[DOCUMENT_START, *([b"a", b"bb", b"zz", b"ccc"] * n)] for n in (1, 3, 2, 5, 1, 4)]
    lengths = np.asarray([len(words) - 1 for words in streams])
    train = TrainPlan(lengths, lanes=4, window=3, seed=2)
    held_out = EvalPlan(lengths, lanes=4, window=3)
    reader = make_reader(3, streams)
    for step in range(train.steps_per_epoch):
        whole = train_batch(train, reader, step, range(4))
        own = [train_batch(train, make_reader(3, streams), step, part) for part in parts]
        assert_joined(whole, own)
    for step in range(held_out.steps):
        whole = eval_batch(held_out, reader, step, range(4))
        own = [eval_batch(held_out, make_reader(3, streams), step, part) for part in parts]
        assert_joined(whole, own)


def assert_joined(whole: Batch, parts: list[Batch]) -> None:
    for name in ("word_ids", "targets", "weights", "fresh", "records"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name), err_msg=name)
    assert [lane for part in parts for lane in spelled(part)] == spelled(whole)
    for part in (whole, *parts):
        assert (part.words[part.index] == part.word_ids).all()


LANES_READ = [[DOCUMENT_START, *([b"a", b"bb", b"zz", b"ccc"] * n)] for n in (1, 3, 2, 5, 1, 4)]


def make_sampler(**settings: Any) -> TargetSampler:
    # Ids 3 to 7 are a, bb, ccc, é and one that the records do not have, which is rare.
    counts = [5, 4, 0, 9, 8, 7, 6, 1]
    return TargetSampler(TrainConfig(seed=3, sampled_words=3, rare_count=2, **settings), counts)


@pytest.mark.parametrize("parts", [[range(0, 2), range(2, 4)], [range(n, n + 1) for n in range(4)]])
def test_workers_draw_the_same(parts: list[range]) -> None:
    lengths = np.asarray([len(words) - 1 for words in LANES_READ])
    plan = TrainPlan(lengths, lanes=4, window=3, seed=2)
    sampler = make_sampler(softmax="sampled", rare_targets=0.5)
    read: list[npt.NDArray[np.int32]] = []
    for step in range(plan.steps_per_epoch):
        reader = make_reader(3, LANES_READ)
        whole = train_batch(plan, reader, step, range(4), sampler=sampler)
        own = [
            train_batch(plan, make_reader(3, LANES_READ), step, part, sampler=sampler)
            for part in parts
        ]
        assert_joined(whole, own)
        assert whole.rows is not None
        for part in own:
            assert part.rows is not None
            np.testing.assert_array_equal(part.rows.ids, whole.rows.ids)
            np.testing.assert_array_equal(part.rows.log_expected, whole.rows.log_expected)
        for part in (whole, *own):
            assert part.rows is not None
            np.testing.assert_array_equal(part.rows.ids[part.rows.of_words], part.words)
            np.testing.assert_array_equal(part.rows.ids[part.rows.of_targets], part.targets)
        read.append(whole.targets)
    replaced = np.mean(np.stack(read) == 7)
    assert 0.25 < replaced < 0.75  # 0.5, give or take


def test_a_sampler_of_nothing_changes_nothing() -> None:
    plan = TrainPlan(
        np.asarray([len(words) - 1 for words in LANES_READ]), lanes=4, window=3, seed=2
    )
    plain = train_batch(plan, make_reader(3, LANES_READ), 1, range(4))
    full = train_batch(plan, make_reader(3, LANES_READ), 1, range(4), sampler=make_sampler())
    assert_joined(plain, [full])
    assert plain.rows is full.rows is None
    sampled = make_sampler(softmax="sampled")
    drawn = train_batch(plan, make_reader(3, LANES_READ), 1, range(4), sampler=sampled)
    assert_joined(plain, [drawn])
    assert drawn.rows is not None


def test_evaluation_begins_every_record_afresh() -> None:
    lengths = np.asarray([len(words) - 1 for words in STREAMS])
    plan = EvalPlan(lengths, lanes=2, window=3)
    reader = make_reader(3)
    seen = 0.0
    for step in range(plan.steps):
        batch = eval_batch(plan, reader, step, range(2))
        seen += batch.weights.sum()
        for lane in range(2):
            segment = plan.segment(step, lane)
            assert batch.fresh[lane] == (segment is None or segment.start == 0)
            size = segment.stop - segment.start if segment else 0
            assert batch.weights[lane].tolist() == [1.0] * size + [0.0] * (3 - size)
            # Padding is what an unstarted document looks like.
            assert batch.word_ids[lane, size:].tolist() == [BOS_ID] * (3 - size)
            assert spelled(batch)[lane][size:] == [row(DOCUMENT_START)] * (3 - size)
    assert seen == lengths.sum()


def test_lanes_that_read_nothing() -> None:
    batch = make_reader(3).batch([[], []], [True, True])
    assert batch.word_ids.tolist() == [[BOS_ID] * 3] * 2
    assert batch.targets.tolist() == batch.records.tolist() == batch.index.tolist() == [[0] * 3] * 2
    assert not batch.weights.any()
    assert batch.words.tolist() == [BOS_ID]
    assert batch.char_ids.tolist() == [row(DOCUMENT_START)]


def test_records_in_use_are_read_once_and_old_ones_again() -> None:
    memory = Memory([[DOCUMENT_START, b"a"], *([[DOCUMENT_START, b"bb"]] * 1024)])
    reader = LaneReader(memory, "train", max_word_bytes=WIDTH, window=1)

    def read(index: int) -> list[list[int]]:
        targets: list[list[int]] = reader.batch([[Segment(index, 0, 1)]], [True]).targets.tolist()
        return targets

    for index in (0, 1, 0, 1):
        read(index)
    assert memory.reads == [0, 1]
    for index in range(1, 1025):
        read(index)
    assert read(0) == [[VOCAB.ids[b"a"]]]
    assert read(1024) == [[VOCAB.ids[b"bb"]]]
    assert memory.reads == [*range(1025), 0]


def test_bos_spelling_is_no_word_of_text() -> None:
    assert row(DOCUMENT_START) == [CHAR_BEGIN, CHAR_BOS, CHAR_END, 0, 0, 0]


def test_decoded_records_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [[DOCUMENT_START, *[b"a"] * size] for size in (10, 10, 400, 10)]
    memory = Memory(streams)
    reader = LaneReader(memory, "train", max_word_bytes=WIDTH, window=8)

    def read(*records: int) -> list[int]:
        """Reads a word of each record; returns those that had to be decoded."""
        memory.reads.clear()
        for record in records:
            reader.batch([[Segment(record, 0, 1)]], [False])
        return memory.reads

    # Per word 4 bytes of its id, 8 of its length, 8 of its start and 2 per character, and 8 more.
    monkeypatch.setattr(batches, "CACHED_BYTES", 3 * (11 * 22 + 8))
    assert read(0, 1, 3, 0, 1, 3) == [0, 1, 3]
    assert read(2, 2) == [2]  # too large to be kept beside others
    assert read(0, 2, 1, 3, 0) == [0, 2, 1, 3, 0]
    assert read(3, 0, 1, 2, 1) == [2, 1]
