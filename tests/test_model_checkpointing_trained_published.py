from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.baselines.byte_ngram import KEYS, SpellingModel, learn_spellings
from model.checkpointing.checkpoints import read_checkpoint, write_checkpoint
from model.checkpointing.trained import Loaded, load_model, load_published, save_published
from model.config import with_overrides
from model.data.records import Dataset
from model.errors import InputError
from model.presets import tiny
from model.text.vocab import Vocabulary
from model.training.weight_average import EVERY

pytestmark = pytest.mark.slow


@pytest.fixture
def version(loaded: Loaded, dataset: Dataset, tmp_path: Path) -> str:
    folder = tmp_path / "lm" / "3"
    folder.mkdir(parents=True)
    save_published(loaded, dataset, str(folder))
    return str(folder)


def test_what_is_written(version: str, loaded: Loaded, dataset: Dataset) -> None:
    assert sorted(os.listdir(version)) == ["checkpoint", "vocab.txt"]
    checkpoint = read_checkpoint(os.path.join(version, "checkpoint"))
    weights = {f"model/{one.path}" for one in loaded.model.weights}
    assert set(checkpoint.arrays) == weights | set(KEYS)  # no optimizer slots, no lanes
    assert checkpoint.step == loaded.checkpoint.step
    expected = {**loaded.checkpoint.meta, "arrays_sha256": checkpoint.digest}
    assert checkpoint.meta == expected | {
        "trained_sha256": loaded.checkpoint.digest,
        "vocab_sha256": dataset.vocab.digest,
    }


def test_what_is_read_is_what_was_trained(version: str, loaded: Loaded, dataset: Dataset) -> None:
    published = load_published(version)
    assert published.path == version
    assert published.config == loaded.config
    assert published.vocab == dataset.vocab
    assert published.spelling.words == learn_spellings(dataset).words
    assert published.trained_digest == loaded.checkpoint.digest
    assert [one.path for one in published.model.weights] == [
        one.path for one in loaded.model.weights
    ]
    for ours, theirs in zip(published.model.weights, loaded.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


def test_averaged_weights_are_the_ones_published(tiny_records: str, tmp_path: Path) -> None:
    from components.train.main import run
    from components.train.training_job import TrainingJob

    steps = 2 * EVERY
    settings = [f"train.steps={steps}", "train.average_last=1", f"train.valid_steps={steps}"]
    workdir, folder = str(tmp_path / "workdir"), tmp_path / "1"
    run(TrainingJob(records=tiny_records, workdir=workdir), with_overrides(tiny(), settings))
    with Dataset.open(tiny_records) as dataset:
        trained = load_model(workdir, dataset)
        folder.mkdir()
        save_published(trained, dataset, str(folder))
    arrays = trained.checkpoint.arrays
    assert trained.checkpoint.meta["averaged"] == 2
    published = load_published(str(folder))
    moved = 0
    for variable in published.model.trainable_variables:
        mean = arrays[f"average/{variable.path}"]
        np.testing.assert_array_equal(variable.numpy(), mean, err_msg=variable.path)
        moved += bool((mean != arrays[f"model/{variable.path}"]).any())
    assert moved


def test_version_of_an_older_charloom(version: str) -> None:
    shutil.rmtree(os.path.join(version, "checkpoint"))
    with pytest.raises(InputError) as caught:
        load_published(version)
    assert str(caught.value) == (
        f"{version} is not a version of a model; name <registry>/<name>/<number>"
    )
    Path(version, "saved_model.pb").touch()
    with pytest.raises(InputError) as caught:
        load_published(version)
    assert str(caught.value) == (
        f"{version} was published by an older charloom (no checkpoint); train and publish a new "
        "model"
    )


def test_damaged_version(version: str) -> None:
    arrays = Path(version, "checkpoint", "arrays.npz")
    data = arrays.read_bytes()
    arrays.write_bytes(data[:-1])
    with pytest.raises(InputError) as caught:
        load_published(version)
    assert str(caught.value) == (
        f"{version}/checkpoint is not whole (arrays.npz is cut short or damaged); "
        "name another version"
    )
    arrays.write_bytes(data)
    vocab = Path(version, "vocab.txt")
    vocab.write_text(vocab.read_text(encoding="utf-8").replace("the", "teh"), encoding="utf-8")
    with pytest.raises(InputError, match=rf"^{version} is not whole \(vocab.txt was changed\)"):
        load_published(version)


def test_arrays_of_another_model(version: str) -> None:
    path = os.path.join(version, "checkpoint")
    checkpoint = read_checkpoint(path)
    arrays = {**checkpoint.arrays, "model/other": np.zeros(3)}
    write_checkpoint(path, step=7, arrays=arrays, meta=checkpoint.meta)
    with pytest.raises(
        InputError,
        match=r"is not whole \(it belongs to another model: array model/other is unknown\)",
    ):
        load_published(version)


def test_checkpoint_without_spellings_is_not_published(
    loaded: Loaded, dataset: Dataset, tmp_path: Path
) -> None:
    arrays = {name: one for name, one in loaded.checkpoint.arrays.items() if name not in KEYS}
    older = loaded.checkpoint.__class__("workdir/x", arrays, loaded.checkpoint.meta)
    with pytest.raises(InputError, match=r"^workdir/x was written by an older charloom without"):
        save_published(loaded._replace(checkpoint=older), dataset, str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_words_of_another_order_of_ids(loaded: Loaded, dataset: Dataset, tmp_path: Path) -> None:
    """A version is read by its own vocabulary, not by that of the records at hand."""
    vocab = dataset.vocab
    dataset.vocab = Vocabulary(words=(*vocab.words[:3], *vocab.words[:2:-1]), counts=vocab.counts)
    try:
        save_published(loaded, dataset, str(tmp_path))
        assert load_published(str(tmp_path)).vocab == dataset.vocab != vocab
    finally:
        dataset.vocab = vocab


def test_meta_is_readable(version: str) -> None:
    text = Path(version, "checkpoint", "meta.json").read_text(encoding="utf-8")
    assert json.loads(text)["trained_sha256"]
    assert SpellingModel.from_arrays(read_checkpoint(f"{version}/checkpoint").arrays).words
