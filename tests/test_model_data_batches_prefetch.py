from __future__ import annotations

import threading
import time

import pytest

from model.data.batches import prefetch


def test_prefetch_keeps_the_order() -> None:
    def make(step: int) -> int:
        time.sleep(0.001 * (step % 3))
        return step * step

    assert list(prefetch(make, range(3, 30))) == [step * step for step in range(3, 30)]
    assert list(prefetch(make, range(0))) == []
    assert list(prefetch(make, range(5, 6))) == [25]


def test_prefetch_makes_one_ahead() -> None:
    made = [threading.Event() for _ in range(5)]

    def make(step: int) -> int:
        made[step].set()
        return step

    batches = prefetch(make, range(5))
    assert next(batches) == 0
    assert made[1].wait(10)  # without being asked for
    time.sleep(0.05)
    assert not made[2].is_set()
    assert list(batches) == [1, 2, 3, 4]


@pytest.mark.parametrize("broken", [0, 3, 5])
def test_prefetch_passes_exceptions_on_in_their_place(broken: int) -> None:
    def make(step: int) -> int:
        if step == broken:
            raise OSError(f"step {step}")
        return step

    got: list[int] = []
    with pytest.raises(OSError, match=f"step {broken}"):
        got.extend(prefetch(make, range(6)))  # keeps what came before
    assert got == list(range(broken))


def test_prefetch_can_be_left() -> None:
    batches = prefetch(lambda step: step, range(1000))
    assert next(batches) == 0
    batches.close()  # type: ignore[attr-defined]
    assert list(batches) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
