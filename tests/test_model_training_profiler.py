from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from model.errors import InputError
from model.training.profiler import Profiler, ProfileSteps


@pytest.mark.parametrize("text", ["100:110", " 0:1 "])
def test_parse(text: str) -> None:
    assert str(ProfileSteps.parse(text)) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "10", "110:100", "5:5", "-1:3", "a:b", "1:2:3", "1.5:3", "1: 3", "٣:٤"]
)
def test_a_wrong_form(text: str) -> None:
    with pytest.raises(InputError, match=r"^--profile is .*; write .* --profile 100:110$"):
        ProfileSteps.parse(text)


def test_steps_that_the_training_does_not_take() -> None:
    steps = ProfileSteps(10, 20)
    steps.check(done=0, steps=60)
    steps.check(done=19, steps=60)  # still one of them to come
    steps.check(done=0, steps=11)
    for done, last in ((20, 60), (0, 10)):
        with pytest.raises(InputError, match=f"from step {done} to {last}"):
            steps.check(done=done, steps=last)


def traced(folder: Path, steps: ProfileSteps | None, *, last: int) -> list[Path]:
    profiler = Profiler(str(folder), steps)
    for step in range(last):
        profiler.update(step)
        with tf.profiler.experimental.Trace(f"our_step_{step}"):
            tf.matmul(tf.ones([8, 8]), tf.ones([8, 8]))
    profiler.close()
    return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_exactly_the_steps_asked_for_are_traced(tmp_path: Path) -> None:
    (path,) = traced(tmp_path, ProfileSteps(2, 4), last=8)
    content = path.read_bytes()
    found = [step for step in range(8) if f"our_step_{step}".encode() in content]
    assert found == [2, 3]  # by steps done before


def test_a_training_that_ends_within_the_steps(tmp_path: Path) -> None:
    (path,) = traced(tmp_path, ProfileSteps(2, 400), last=4)
    assert b"our_step_3" in path.read_bytes()


def test_nothing_is_traced_unasked(tmp_path: Path) -> None:
    assert traced(tmp_path, None, last=2) == []
    assert list(tmp_path.iterdir()) == []
