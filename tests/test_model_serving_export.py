from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.checkpointing.trained import Loaded, load_model
from model.data.records import Dataset, Record, encode_record, parse_record
from model.errors import CharloomError
from model.serving.export import TOLERANCE, compare
from model.text.vocab import DOCUMENT_START, Vocabulary

pytestmark = pytest.mark.slow


@pytest.fixture
def loaded(tiny_training: str, dataset: Dataset) -> Loaded:
    """A model of its own for each test, which may change it."""
    return load_model(tiny_training, dataset)


@pytest.fixture(scope="module")
def exported(tiny_version: str) -> Any:
    return tf.saved_model.load(tiny_version)


def weight_of(loaded: Loaded, path: str) -> Any:
    (weight,) = (weight for weight in loaded.model.weights if weight.path == path)
    return weight


def test_the_exported_model_says_what_the_checkpoint_says(
    exported: Any, loaded: Loaded, dataset: Dataset
) -> None:
    result = compare(exported, loaded=loaded, dataset=dataset)
    lengths = dataset.lengths("test")
    assert result["texts"] == len(lengths) == 13
    assert result["words"] == lengths.sum()
    assert 0.0 <= result["max_difference"] <= 1e-5


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("joint_model/output_bias", lambda x: x + np.where(np.arange(len(x)) == 7, 0.01, 0.0)),
        ("char_cnn/width_2/kernel", lambda x: x * 1.1),
        ("joint_model/output_bias", lambda x: x * np.nan),
    ],
)
def test_a_changed_weight_is_found(
    exported: Any, loaded: Loaded, dataset: Dataset, path: str, change: Callable[..., Any]
) -> None:
    weight = weight_of(loaded, path)
    weight.assign(change(weight.numpy()))
    with pytest.raises(CharloomError) as caught:
        compare(exported, loaded=loaded, dataset=dataset)
    message = str(caught.value)
    assert message.startswith("the exported model differs from its checkpoint by ")
    assert message.endswith(
        f"nats in a word (at most {TOLERANCE['float32']} is allowed); nothing was published"
    )


class Held:
    """A dataset whose test split is one record of given words."""

    def __init__(self, words: Sequence[bytes], vocab: Vocabulary):
        self.vocab = vocab
        self._record = encode_record([DOCUMENT_START, *words], vocab, source="here")

    def lengths(self, split: str) -> Any:
        return np.asarray([self.read(split, 0).words] if split == "test" else [], np.int64)

    def read(self, split: str, index: int) -> Record:
        return parse_record(self._record)


def test_a_text_that_is_split_otherwise_is_found(
    exported: Any, loaded: Loaded, dataset: Dataset
) -> None:
    split: Any = Held([b"the", b"cat.", b"sat"], dataset.vocab)
    with pytest.raises(CharloomError) as caught:
        compare(exported, loaded=loaded, dataset=split)
    assert str(caught.value) == (
        "the exported model reads 4 words where the records have 3; nothing was published, "
        "please report this text: b'the cat. sat'"
    )
