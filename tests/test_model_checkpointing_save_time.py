from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpointing.save_time import (
    estimate_checkpoint_bytes,
    is_saving,
    note_save,
    read_save_limit,
    save_limit,
)
from model.config import with_overrides
from model.presets import get_preset, tiny


@pytest.mark.parametrize(
    ("size", "seconds", "limit"),
    [
        (0, 0.0, 600.0),
        (5 << 20, 149.0, 600.0),
        (5 << 20, 200.0, 800.0),  # four times the last one
        ((5 << 20) * 900, 10.0, 900.0),  # at 5 MiB a second
        (1 << 50, 10.0, 3600.0),
        (0, 1e9, 3600.0),
    ],
)
def test_a_limit_follows_from_the_bytes_and_the_last_save(
    size: int, seconds: float, limit: float
) -> None:
    assert save_limit(size, seconds) == limit


def test_what_worker_0_notes_is_read(tmp_path: Path) -> None:
    workdir = str(tmp_path)
    assert read_save_limit(workdir, least=120.0) == 120.0
    assert not is_saving(workdir)
    note_save(workdir, size=100, seconds=200.0, saving=True)
    assert read_save_limit(workdir) == 800.0
    assert is_saving(workdir)
    note_save(workdir, size=100, seconds=50.0)
    assert read_save_limit(workdir, least=120.0) == 200.0
    assert not is_saving(workdir)
    assert [path.name for path in tmp_path.iterdir()] == ["save_time.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bytes": "many"}', '{"bytes": null}', "3"])
def test_a_file_that_is_no_note_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "save_time.json").write_text(text)
    assert read_save_limit(str(tmp_path)) == 600.0
    assert not is_saving(str(tmp_path))


def test_the_estimate_before_there_is_a_model() -> None:
    """Of `tiny`: tables, matrices; each weight three times, four if weights are averaged."""
    config = tiny()
    model, words = config.model, config.data.vocab_size
    read = model.word_dim + sum(model.filter_counts)
    cells = 4 * model.lstm_dim * (read + model.output_size)
    assert model.lstm_layers == 1
    assert estimate_checkpoint_bytes(config) == 12 * (words * model.word_dim + cells)
    averaged = with_overrides(config, ["train.average_last=0.5"])
    assert estimate_checkpoint_bytes(averaged) == 16 * (words * model.word_dim + cells)
    assert 4e9 < estimate_checkpoint_bytes(get_preset("onebillion")) < 2e10
