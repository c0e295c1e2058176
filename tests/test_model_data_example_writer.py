import io
import random

import numpy as np
import pytest
import tensorflow as tf

from model.data.example_writer import RecordEncoder, frame, varint
from model.data.records import encode_record
from model.data.shard_files import read_framed
from model.text.vocab import DOCUMENT_START, LINE_END, SPECIAL_WORDS, UNK_ID, Vocabulary


def make_vocab(words: list[bytes]) -> Vocabulary:
    named = tuple(word.decode() for word in words)
    return Vocabulary(words=SPECIAL_WORDS + named, counts=(1,) * (len(named) + 3))


@pytest.mark.parametrize("seed", range(20))
def test_bytes_are_those_of_tf_train_example(seed: int) -> None:
    chance = random.Random(seed)
    alphabet = "az{}~\x7fäß中😀\u0301"
    known = list({"".join(chance.choices(alphabet, k=5)).encode() for _ in range(300)})
    unknown = [b"unheard" * 20000, "ÿ".encode() * 70, b"</s>"]
    vocab = make_vocab(known)
    distinct = [DOCUMENT_START, LINE_END, *known, *unknown]
    encoder = RecordEncoder(distinct, [vocab.ids.get(word, UNK_ID) for word in distinct])
    for length in (1, 2, 3, 200, 1000):
        words = [0, *chance.choices(range(1, len(distinct)), k=length)]
        source = "ordner/ä.txt:12345678901+7"
        expected = encode_record([distinct[word] for word in words], vocab, source=source)
        assert encoder.encode(np.asarray(words), source=source) == expected


def test_large_ids_are_varints() -> None:
    words = [b"a", b"b"]
    encoder = RecordEncoder(words, [1 << 24, 300])
    example = tf.train.Example.FromString(encoder.encode(np.asarray([0, 1]), source="s"))
    assert list(example.features.feature["word_ids"].int64_list.value) == [1 << 24, 300]


def test_varints() -> None:
    assert [varint(number) for number in (0, 127, 128, 300)] == [
        b"\x00",
        b"\x7f",
        b"\x80\x01",
        b"\xac\x02",
    ]


def test_frames_are_those_of_tfrecord_files(tmp_path: object) -> None:
    records = [b"", b"a", bytes(range(256)) * 300]
    path = f"{tmp_path}/r"
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    with open(path, "rb") as file:
        assert file.read() == b"".join(map(frame, records))
    assert read_framed(io.BytesIO(frame(records[2])), 0) == records[2]
