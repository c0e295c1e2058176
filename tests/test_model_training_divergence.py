from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from model.config import with_overrides
from model.data.batches import LaneReader, train_batch
from model.data.plan import TrainPlan
from model.data.records import Dataset
from model.presets import tiny
from model.training.divergence import (
    Fault,
    LossWatch,
    broken_error,
    check_numbers,
    dump_broken,
    read_batch,
)

COUNTS = [50, 30, 0, 19]
LIMIT = math.log((50 + 30 + 0 + 19 + 4) / 1)  # of the word that was never seen


def watch(*, warmup_steps: int = 0) -> LossWatch:
    return LossWatch(COUNTS, warmup_steps=warmup_steps)


def check(watch: LossWatch, *means: float, step: int, words: int = 200) -> Fault | None:
    """One interval of steps with these mean losses, ending at `step`."""
    return watch.check(
        [mean * words for mean in means], [words] * len(means), step=step, gradient_norm=1.0
    )


def test_the_limit_is_the_loss_of_the_rarest_word() -> None:
    assert watch().limit == pytest.approx(LIMIT)


def test_ordinary_losses() -> None:
    ours = watch()
    for step in range(1, 50):
        assert check(ours, LIMIT - 0.01, step=step) is None


def test_two_high_intervals_in_a_row_diverge() -> None:
    ours = watch()
    assert check(ours, 1.0, 1.0, step=2) is None
    assert check(ours, 1.0, 40.0, step=4) is None  # on the whole above, from step 4 on
    fault = check(ours, 9.0, 11.0, step=6)
    assert fault is not None
    assert fault.step == 4
    assert "at step 6 it is 10 nats per word" in fault.reason
    assert "exceeds 4.635" in fault.reason


def test_a_jump_that_it_recovers_from_is_let_pass() -> None:
    ours = watch()
    for step in range(1, 20):
        assert check(ours, 99.0 if step % 2 else 1.0, step=step) is None


def test_the_warm_up_is_not_judged() -> None:
    ours = watch(warmup_steps=3)
    assert [check(ours, 99.0, step=step) is None for step in range(1, 6)] == [True] * 4 + [False]


def test_few_words_are_judged_together() -> None:
    ours = watch()
    # 30 words a step: judged at steps 4, 8, ...
    found = [check(ours, 99.0, step=step, words=30) is None for step in range(1, 9)]
    assert found == [True] * 7 + [False]


# Means of the steps; 0 to 4 are low.
COURSES = [
    [1, 2, 99, 99, 99, 3, 99, 99],
    [99, 99, 99, 99],
    [1, 99, 1, 99, 99, 1, 1, 99],
    [1, 2, 3, 4, 1, 2, 3, 4],
]


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("words", [30, 200])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_restart_changes_nothing(course: list[int], words: int, every: int) -> None:
    """A checkpoint at any step, in the middle of an interval too, as JSON."""

    def follow(restart: int | None) -> list[tuple[Fault | None, int]]:
        ours, losses, found = watch(warmup_steps=1), list[float](), []
        for step, mean in enumerate(course, start=1):
            losses.append(float(mean * words))
            fault = None
            if step % every == 0:
                counts = [words] * len(losses)
                fault = ours.check(losses, counts, step=step, gradient_norm=1.0)
                losses = []
            if step == restart:
                state = json.loads(json.dumps(ours.state))
                ours = LossWatch(COUNTS, warmup_steps=1, begin=state)
            good = ours.good_step(losses, [words] * len(losses), step=step)
            found.append((fault, good))
            if fault:
                break
        return found

    expected = follow(None)
    for restart in range(1, len(course) + 1):
        assert follow(restart) == expected


def test_a_high_interval_is_not_forgotten_over_a_restart() -> None:
    before = watch()
    assert check(before, 1.0, 40.0, step=2) is None
    ours = LossWatch(COUNTS, warmup_steps=0, begin=before.state)
    fault = check(ours, 9.0, 11.0, step=4)
    assert fault is not None
    assert fault.step == 2


def good(watch: LossWatch, *means: float, step: int, words: int = 200) -> int:
    losses = [mean * words for mean in means]
    return watch.good_step(losses, [words] * len(means), step=step)


def test_a_step_is_good_once_the_next_one_has_been_seen() -> None:
    ours = watch()
    assert good(ours, step=0) == -1
    assert good(ours, 1.0, step=1) == 0
    assert good(ours, 1.0, 1.0, step=2) == 1
    assert good(ours, 1.0, 40.0, 1.0, step=3) == 0  # the weights after step 1 are in question
    assert check(ours, 1.0, 4.0, 1.0, 1.0, step=4) is None
    assert good(ours, step=4) == 3
    assert check(ours, 1.0, 40.0, 40.0, step=7) is None
    assert good(ours, step=7) == 4  # step 6 was bad, so the weights after step 5 were
    assert good(ours, 1.0, 1.0, step=9) == 4  # not judged yet
    assert check(ours, 1.0, 1.0, step=9) is None  # it has recovered
    assert good(ours, step=9) == 8


def test_good_steps_of_the_warm_up() -> None:
    ours = watch(warmup_steps=10)
    assert check(ours, 1.0, 1.0, step=2) is None
    assert good(ours, step=2) == 1
    assert check(ours, 1.0, 90.0, step=4) is None  # high, and not judged
    assert good(ours, 1.0, step=5) == 1
    assert check(ours, 1.0, 1.0, step=6) is None
    assert good(ours, 1.0, step=7) == 6


def test_good_steps_of_few_words() -> None:
    ours = watch()
    for step in (1, 2, 3):
        assert check(ours, 1.0, step=step, words=30) is None
        assert good(ours, step=step) == -1
    assert check(ours, 1.0, step=4, words=30) is None
    assert good(ours, step=4) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_loss_that_is_no_number(bad: float) -> None:
    fault = watch(warmup_steps=100).check([1.0, bad, math.nan], [9] * 3, step=30, gradient_norm=1.0)
    assert fault == Fault(29, f"the loss is {bad} at step 29")


def test_a_gradient_that_is_no_number() -> None:
    fault = watch().check([1.0, 1.0], [9, 9], step=30, gradient_norm=math.nan)
    assert fault == Fault(30, "the gradient's norm is nan at step 30")
    assert check_numbers([], step=30, gradient_norm=0.0) is None


def test_the_batch_of_a_step_and_its_sources(tiny_records: str) -> None:
    config = tiny()
    train = config.train
    batch, sources = read_batch(config, records=tiny_records, step=7)
    with Dataset.open(tiny_records) as dataset:
        plan = TrainPlan(dataset.lengths("train"), lanes=4, window=8, seed=train.seed)
        reader = LaneReader(dataset, "train", max_word_bytes=12, window=8)
        expected = train_batch(plan, reader, 6, range(4))  # the step after six are done
        np.testing.assert_array_equal(batch.word_ids, expected.word_ids)
        np.testing.assert_array_equal(batch.char_ids, expected.char_ids)
        segments = {
            (segment.record, lane) for lane in range(4) for segment in plan.step_segments(6)[lane]
        }
        assert {(one["record"], lane) for one in sources for lane in one["lanes"]} == segments
        for one in sources:
            assert one["source"] == dataset.read("train", one["record"]).source


def test_what_is_saved(tiny_records: str, tmp_path: Path) -> None:
    batch, sources = read_batch(tiny(), records=tiny_records, step=7)
    for value in (1.0, 2.0):  # the second replaces the first
        arrays = {"model/w": np.full([2, 3], value), "state": np.full([4], math.nan)}
        folder = dump_broken(
            str(tmp_path), step=7, arrays=arrays, batch=batch, meta={"sources": sources}
        )
    assert folder == str(tmp_path / "broken" / "step-7")
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["step-7"]
    with np.load(f"{folder}/arrays.npz", allow_pickle=False) as saved:
        assert set(saved) == {"model/w", "state"}
        np.testing.assert_array_equal(saved["model/w"], np.full([2, 3], 2.0))
    with np.load(f"{folder}/batch.npz", allow_pickle=False) as saved:
        for name in ("word_ids", "targets", "char_ids", "index", "records"):
            np.testing.assert_array_equal(saved[name], getattr(batch, name))
    meta = json.loads(Path(folder, "meta.json").read_text(encoding="utf-8"))
    assert meta == {"step": 7, "sources": sources}


def test_a_batch_with_sampled_words(tiny_records: str, tmp_path: Path) -> None:
    settings = ["train.softmax=sampled", "train.sampled_words=50", "train.rare_targets=0.5"]
    config = with_overrides(tiny(), settings)
    batch, _ = read_batch(config, records=tiny_records, step=7)
    plain, _ = read_batch(tiny(), records=tiny_records, step=7)
    assert batch.rows is not None
    assert (batch.targets != plain.targets).any()  # as the step saw them
    folder = dump_broken(str(tmp_path), step=7, arrays={}, batch=batch, meta={})
    with np.load(f"{folder}/batch.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["targets"], batch.targets)
        np.testing.assert_array_equal(saved["rows/ids"], batch.rows.ids)


def test_the_message() -> None:
    sources = [{"source": f"{name}.txt:0"} for name in "abcde"]
    fault = Fault(7, "the loss is nan at step 7")
    assert str(broken_error(fault, sources, saved="the state is in w/broken/step-7")) == (
        "the loss is nan at step 7; that step's batch comes from a.txt:0, b.txt:0, c.txt:0 and 2 more; "
        "the state is in w/broken/step-7; lower train.learning_rate and use another --workdir"
    )
    assert "from a.txt:0;" in str(broken_error(fault, sources[:1], saved=""))
