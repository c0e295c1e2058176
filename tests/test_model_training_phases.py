from __future__ import annotations

import pytest

from model.training.phases import PHASES, Phases


def test_seconds_add_up_until_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("model.training.phases.time.monotonic", lambda: now)
    phases = Phases()
    with phases.timed("step"):
        now += 2.0
    now += 50.0  # outside of any phase
    with phases.timed("waiting"):
        now += 0.5
    with phases.timed("step"):
        now += 1.0
    assert [phases.take(phase) for phase in PHASES] == [0.5, 3.0, 0.0, 0.0]
    assert [phases.take(phase) for phase in PHASES] == [0.0] * 4


def test_an_unknown_phase() -> None:
    with pytest.raises(KeyError), Phases().timed("lunch"):
        pass
