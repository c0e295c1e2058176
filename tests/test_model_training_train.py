from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.train.local.worker_group import log_path
from components.train.main import run
from components.train.training_job import TrainingJob
from model.baselines.byte_ngram import KEYS, SpellingModel, learn_spellings
from model.checkpointing.checkpoints import (
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from model.checkpointing.save_time import is_saving
from model.config import Config, with_overrides
from model.data.records import Dataset
from model.distributed import stop_signals
from model.distributed.cluster import Cluster
from model.distributed.stop_signals import StopSignals
from model.distributed.watchdog import Watchdog
from model.errors import CharloomError, InputError, RestartableError, StoppedError
from model.metrics import read_metrics
from model.presets import tiny
from model.training import loop
from model.training.config_checks import check_config
from model.training.divergence import read_batch
from model.training.state import Training, build_training, restore, save
from model.training.train import train_and_evaluate

CONFIG = with_overrides(tiny(), ["train.log_steps=1"])
assert CONFIG.model.hidden_dropout > 0


def losses(workdir: str) -> dict[int, float]:
    rows = [row for row in read_metrics(workdir) if "loss" in row]
    found = {row["step"]: row["loss"] for row in rows}
    assert len(found) == len(rows)  # each step is there once
    return found


def last_arrays(workdir: str) -> bytes:
    return (Path(list_checkpoints(workdir)[0]) / "arrays.npz").read_bytes()


def cut_back(workdir: str, target: Path, *, to: int) -> str:
    """Copies a finished training to `target` as one that was killed after step `to`."""
    shutil.copytree(workdir, target)
    (target / "COMPLETED").unlink()
    for path in map(Path, list_checkpoints(str(target))):
        if int(path.name.split("-")[1]) > to:
            shutil.rmtree(path)
    return str(target)


@pytest.fixture(scope="module")
def one_worker(tiny_records: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    workdir = str(tmp_path_factory.mktemp("one") / "workdir")
    result = run(TrainingJob(records=tiny_records, workdir=workdir, workers=1), CONFIG)
    assert result["step"] == 60
    return workdir


@pytest.fixture(scope="module")
def two_workers(tiny_records: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    workdir = str(tmp_path_factory.mktemp("two") / "workdir")
    run(TrainingJob(records=tiny_records, workdir=workdir, workers=2), CONFIG)
    return workdir


@pytest.mark.slow
def test_two_workers_train_as_one_does(one_worker: str, two_workers: str) -> None:
    one, two = losses(one_worker), losses(two_workers)
    assert list(one) == list(two) == list(range(1, 61))
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=1e-6), step
    for rank in range(2):
        text = Path(log_path(two_workers, rank)).read_text(encoding="utf-8")
        assert f"rank {rank} of 2, 2 replicas in sync" in text
        assert "finished at step 60" in text
    ours, theirs = (read_checkpoint(list_checkpoints(w)[0]) for w in (one_worker, two_workers))
    assert (ours.meta["workers"], theirs.meta["workers"]) == (1, 2)
    for name, array in ours.arrays.items():
        np.testing.assert_allclose(theirs.arrays[name], array, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_resumed_is_uninterrupted_bit_for_bit(
    one_worker: str, tiny_records: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workdir = cut_back(one_worker, tmp_path / "workdir", to=40)
    assert len(losses(workdir)) == 60  # reported after the checkpoint, before the kill
    run(TrainingJob(records=tiny_records, workdir=workdir, workers=1), CONFIG)
    assert (
        f"continuing from step 40 ({workdir}/checkpoints/step-00000040)" in capfd.readouterr().out
    )
    assert "continuing from step 40" in Path(log_path(workdir, 0)).read_text(encoding="utf-8")
    assert last_arrays(workdir) == last_arrays(one_worker)
    assert losses(workdir) == losses(one_worker)
    ours, theirs = (read_checkpoint(list_checkpoints(w)[0]).meta for w in (workdir, one_worker))
    assert ours == theirs
    assert (Path(workdir) / "COMPLETED").read_text(encoding="utf-8") == "60\n"


@pytest.mark.slow
def test_resumed_by_another_number_of_workers(
    one_worker: str, tiny_records: str, tmp_path: Path
) -> None:
    workdir = cut_back(one_worker, tmp_path / "workdir", to=40)
    run(TrainingJob(records=tiny_records, workdir=workdir, workers=2), CONFIG)
    one, two = losses(one_worker), losses(workdir)
    assert list(two) == list(range(1, 61))
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=1e-5), step
    meta = read_checkpoint(list_checkpoints(workdir)[0]).meta
    assert (meta["step"], meta["workers"]) == (60, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.word_dim=17", "model.word_dim=16, not 17"),
        ("model.hidden_dropout=0", "model.hidden_dropout=0.1, not 0.0"),
        ("model.filter_counts=8,8,9", "model.filter_counts=(8, 8, 8), not (8, 8, 9)"),
        ("train.lanes=8", "train.lanes=4, not 8"),
        ("train.seed=2", "train.seed=1, not 2"),
        ("train.learning_rate=1", "train.learning_rate=0.01, not 1.0"),
    ],
)
def test_another_setting_is_no_continuation(
    one_worker: str, tiny_records: str, setting: str, message: str
) -> None:
    before = last_arrays(one_worker)
    with pytest.raises(InputError) as caught:
        run(
            TrainingJob(records=tiny_records, workdir=one_worker), with_overrides(CONFIG, [setting])
        )
    assert str(caught.value) == (
        f"workdir {one_worker} was started with {message}; use the same setting or choose another "
        "--workdir"
    )
    assert last_arrays(one_worker) == before


@pytest.mark.slow
def test_records_of_another_config_are_no_continuation(
    one_worker: str, unsplit_records: str
) -> None:
    with pytest.raises(InputError, match=r"started with data\.valid_fraction=0\.15, not 0\.0;"):
        run(TrainingJob(records=unsplit_records, workdir=one_worker), CONFIG)


@pytest.fixture
def cluster() -> Cluster:
    """This process as the only worker; TF_CONFIG and collectives stay out of it."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    return Cluster(rank=0, size=1, strategy=strategy)


def here(
    records: str, workdir: str, cluster: Cluster, *settings: str, **options: Any
) -> dict[str, Any]:
    """Trains in this process."""
    with Dataset.open(records) as dataset:
        config = check_config(with_overrides(CONFIG, settings), dataset)
        return train_and_evaluate(
            config, dataset=dataset, workdir=workdir, cluster=cluster, **options
        )


class Asked(StopSignals):
    """Is asked to stop once a certain thing is done."""

    def __init__(self, watchdog: Watchdog, doing: str):
        super().__init__()
        self._watchdog, self._doing, self._met = watchdog, doing, False

    @property
    def requested(self) -> bool:
        self._met = self._met or self._watchdog.doing == self._doing
        return self._met


@pytest.mark.slow
def test_stopped_while_training_validating_and_saving(
    one_worker: str,
    tiny_records: str,
    tmp_path: Path,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stop_signals, "VOTE_SECONDS", 0.0)  # a vote at every point
    workdir = cut_back(one_worker, tmp_path / "workdir", to=20)
    setting = "train.log_steps=7"  # so that a report's steps lie before and after a stop
    saved: list[int] = []

    def note(training: Training, *given: Any, **options: Any) -> None:
        saved.append(training.step)
        save(training, *given, **options)

    monkeypatch.setattr(loop, "save", note)
    stops = ((24, "step 24"), (30, "the validation pass of step 30"), (40, "saving step 40"))
    for step, doing in stops:
        watchdog = Watchdog()
        with pytest.raises(StoppedError, match=rf"^stopped and saved at step {step}$"):
            here(
                tiny_records,
                workdir,
                cluster,
                setting,
                signals=Asked(watchdog, doing),
                watchdog=watchdog,
            )
        newest = read_checkpoint(list_checkpoints(workdir)[0])
        assert newest.step == step
        assert "valid_words" not in newest.meta
        assert not (tmp_path / "workdir" / "COMPLETED").exists()
    assert saved == [20, 24, 30, 30, 40]  # 30 again once it is validated; 40 once only
    assert not is_saving(workdir)
    assert here(tiny_records, workdir, cluster, setting)["step"] == 60
    assert last_arrays(workdir) == last_arrays(one_worker)
    ours, theirs = (read_metrics(path) for path in (workdir, one_worker))
    valid = [
        [(row["step"], row["valid_log_likelihood"]) for row in rows if "valid_words" in row]
        for rows in (ours, theirs)
    ]
    assert valid[0] == valid[1]
    assert [step for step, _ in valid[0]] == [30, 60]
    each, found = losses(one_worker), losses(workdir)
    for step in (28, 35, 42, 49, 56):
        mean = sum(each[one] for one in range(step - 6, step + 1)) / 7
        assert found[step] == pytest.approx(mean, rel=1e-6), step


@pytest.mark.slow
def test_more_steps_go_on(
    one_worker: str, tiny_records: str, tmp_path: Path, cluster: Cluster
) -> None:
    workdir = cut_back(one_worker, tmp_path / "workdir", to=60)
    result = here(tiny_records, workdir, cluster, "train.steps=63", "train.checkpoint_steps=1")
    assert result["step"] == 63
    assert sorted(losses(workdir)) == list(range(1, 64))
    newest = newest_checkpoint(workdir)
    assert newest is not None
    assert read_checkpoint(newest).step == 63
    assert (tmp_path / "workdir" / "COMPLETED").read_text(encoding="utf-8") == "63\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "log_steps", "save_steps", "message"),
    [
        ("joint_model/output_bias", np.nan, 1, 20, "the loss is nan"),  # when reported
        # Before it is saved. A finite loss, but clipping by this norm turns weights to NaN.
        ("word_embedding/embeddings", 1e20, 50, 1, r"the gradient's norm is (inf|nan)"),
    ],
)
def test_a_broken_model_ends_training_and_is_not_saved(
    one_worker: str,
    tiny_records: str,
    tmp_path: Path,
    cluster: Cluster,
    name: str,
    value: float,
    log_steps: int,
    save_steps: int,
    message: str,
) -> None:
    workdir = cut_back(one_worker, tmp_path / "workdir", to=40)
    whole = read_checkpoint(list_checkpoints(workdir)[0])
    arrays = dict(whole.arrays)
    arrays[f"model/{name}"] = np.sign(arrays[f"model/{name}"]) * np.float32(value)
    save_checkpoint(workdir, step=41, arrays=arrays, meta=whole.meta)
    settings = [f"train.log_steps={log_steps}", f"train.checkpoint_steps={save_steps}"]
    with pytest.raises(
        CharloomError, match=rf"^{message} at step 42; that .*; lower train"
    ) as caught:
        here(tiny_records, workdir, cluster, *settings)
    assert not (tmp_path / "workdir" / "COMPLETED").exists()
    # The weights after step 41 gave the bad loss.
    steps = [read_checkpoint(path).step for path in list_checkpoints(workdir)]
    assert steps == [40, 30]
    aside = tmp_path / "workdir" / "checkpoints" / "diverged-step-00000041"
    assert read_checkpoint(str(aside)).step == 41
    assert not isinstance(caught.value, (InputError, RestartableError))
    folder = tmp_path / "workdir" / "broken" / "step-42"
    assert f"; the state is saved in {folder};" in str(caught.value)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert meta["checkpoint_before"] == list_checkpoints(workdir)[0]
    assert meta["set_aside"] == [str(aside)]
    assert meta["sources"] == read_batch(CONFIG, records=tiny_records, step=42)[1]


@pytest.mark.slow
def test_restore_takes_all_arrays(one_worker: str, tiny_records: str, cluster: Cluster) -> None:
    checkpoint = read_checkpoint(list_checkpoints(one_worker)[0])
    with Dataset.open(tiny_records) as dataset:
        training = build_training(check_config(CONFIG, dataset), dataset, cluster)
    restore(training, checkpoint)
    assert training.step == 60
    np.testing.assert_array_equal(training.state, checkpoint.arrays["state"])
    assert (checkpoint.arrays["state"] != 0).any()
    named = {f"model/{weight.path}": weight for weight in training.model.weights}
    trained = [variable.path for variable in training.model.trainable_variables]
    for order, slots in (
        ("first", training.optimizer.first),
        ("second", training.optimizer.second),
    ):
        named |= {f"adam/{order}/{p}": slot for p, slot in zip(trained, slots, strict=True)}
    assert set(named) | {"state", *KEYS} == set(checkpoint.arrays)
    assert training.spelling.keys() == set(KEYS)
    for name in KEYS:
        np.testing.assert_array_equal(training.spelling[name], checkpoint.arrays[name])
    for name, variable in named.items():
        np.testing.assert_array_equal(variable.numpy(), checkpoint.arrays[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    ["model.word_dim=17", "model.lstm_layers=2", "model.char_cnn=frozen", "train.lanes=8"],
)
def test_restore_refuses_another_model(
    one_worker: str, tiny_records: str, cluster: Cluster, setting: str
) -> None:
    checkpoint = read_checkpoint(list_checkpoints(one_worker)[0])
    with Dataset.open(tiny_records) as dataset:
        config = check_config(with_overrides(CONFIG, [setting]), dataset)
        training = build_training(config, dataset, cluster)
    with pytest.raises(
        InputError, match=r"belongs to another model \(array [^;]*\); choose another --workdir"
    ):
        restore(training, checkpoint)
    assert training.step == 0


@pytest.mark.slow
def test_restore_refuses_a_checkpoint_without_spellings(
    one_worker: str, tiny_records: str, cluster: Cluster
) -> None:
    checkpoint = read_checkpoint(list_checkpoints(one_worker)[0])
    del checkpoint.arrays["spelling/words"]
    with Dataset.open(tiny_records) as dataset:
        training = build_training(check_config(CONFIG, dataset), dataset, cluster)
    with pytest.raises(InputError) as caught:
        restore(training, checkpoint)
    assert str(caught.value) == (
        f"{checkpoint.path} was written by an older charloom without spellings; train again in "
        "another --workdir"
    )
    assert training.step == 0


@pytest.mark.slow
def test_checkpoints_keep_the_spellings_of_the_records(one_worker: str, tiny_records: str) -> None:
    with Dataset.open(tiny_records) as dataset:
        expected = learn_spellings(dataset).words
    paths = list_checkpoints(one_worker)
    assert len(paths) > 1
    for path in paths:
        assert SpellingModel.from_arrays(read_checkpoint(path).arrays).words == expected


@pytest.mark.slow
def test_restore_refuses_other_records(
    one_worker: str, tiny_records: str, cluster: Cluster
) -> None:
    checkpoint = read_checkpoint(list_checkpoints(one_worker)[0])
    with Dataset.open(tiny_records) as dataset:
        training = build_training(check_config(CONFIG, dataset), dataset, cluster)
        dataset.digest = "0" * 64
    with pytest.raises(InputError, match=rf"other records than {tiny_records}; choose another"):
        restore(training, checkpoint)


@pytest.mark.slow
def test_training_without_validation(
    unsplit_records: str, tmp_path: Path, cluster: Cluster
) -> None:
    workdir, settings = tmp_path / "workdir", ("train.steps=3", "train.checkpoint_steps=2")
    workdir.mkdir()
    result = here(unsplit_records, str(workdir), cluster, *settings)
    assert result == {"step": 3, "valid_perplexity": None}
    metas = [read_checkpoint(path).meta for path in list_checkpoints(str(workdir))]
    assert [meta["step"] for meta in metas] == [3, 2]
    assert not any("valid_words" in meta for meta in metas)
    assert not any("valid_words" in row for row in read_metrics(str(workdir)))


def config_of(records: str, *settings: str, workers: int = 1) -> Config:
    with Dataset.open(records) as data:
        return check_config(with_overrides(tiny(), settings), data, workers=workers)


def test_records_give_the_data_section(tiny_records: str) -> None:
    config = config_of(tiny_records, "data.vocab_size=99", "train.steps=7")
    assert config == with_overrides(tiny(), ["train.steps=7"])


def test_too_few_words_for_one_batch(tiny_records: str) -> None:
    with Dataset.open(tiny_records) as dataset:
        words = int(dataset.lengths("train").sum())
    config_of(tiny_records, f"train.lanes={words}", "train.window=1")
    with pytest.raises(InputError, match=rf"has {words} words and one batch needs {words + 1} "):
        config_of(tiny_records, f"train.lanes={words + 1}", "train.window=1")


def test_lanes_must_fit_the_workers(tiny_records: str) -> None:
    config_of(tiny_records, workers=4)
    with pytest.raises(InputError, match=r"train\.lanes is 4, which is not divisible by 3 workers"):
        config_of(tiny_records, workers=3)
