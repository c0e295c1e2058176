"""How long saving a checkpoint may take: from its bytes, and from how long the last one took.

Worker 0 notes both in the workdir. Whoever waits for a save, a peer, the launcher or Kubernetes,
waits that long and no longer. No TensorFlow here.
"""

from __future__ import annotations

import json
import os

from model.config import Config
from model.files import write_whole

SAVE_SECONDS = 600.0
"""Time that any save may take, even of few bytes to a disk that seems quick."""

MAX_SAVE_SECONDS = 3600.0
"""Time after which a save counts as hanging, however many bytes it has."""

_SAVE_TIME_FILE = "save_time.json"
_SLOW_DISK = 5 << 20
"""Bytes a second of a disk that we still wait for."""
_SLOWER = 4.0
"""How many times as long as the last save one may take."""


def save_limit(size: float, seconds: float, *, least: float = SAVE_SECONDS) -> float:
    """Returns the longest time that a save may take, in seconds.

    Args:
      size: bytes of a checkpoint; 0 if unknown.
      seconds: how long the last save took; 0 before the first one.
      least: the minimum.
    """
    return min(max(least, size / _SLOW_DISK, _SLOWER * seconds), MAX_SAVE_SECONDS)


def estimate_checkpoint_bytes(config: Config) -> int:
    """Returns about how many bytes a checkpoint will have, before a model is built.

    Counts the tables of the largest vocabulary that the config allows, and the LSTM's matrices; each
    weight with its two averages of AdamW, and once more where weights are averaged.
    """
    model, words = config.model, config.data.vocab_size
    filters = sum(model.filter_counts)
    read = {"words": model.word_dim, "characters": filters}.get(
        model.inputs, model.word_dim + filters
    )
    weights = words * (model.word_dim + (0 if model.tied else model.output_size))
    for _ in range(model.lstm_layers):
        weights += 4 * model.lstm_dim * (read + model.output_size)
        read = model.output_size
    return 4 * weights * (4 if config.train.average_last else 3)


def note_save(workdir: str, *, size: int, seconds: float, saving: bool = False) -> None:
    """Writes what `read_save_limit` and `is_saving` read.

    Args:
      workdir: the training's folder.
      size: bytes of a checkpoint.
      seconds: how long the last save took; 0 before the first one.
      saving: whether one begins now.
    """
    text = json.dumps({"bytes": size, "seconds": round(seconds, 3), "saving": saving})
    write_whole(os.path.join(workdir, _SAVE_TIME_FILE), text + "\n", flush=False)


def read_save_limit(workdir: str, *, least: float = SAVE_SECONDS) -> float:
    """Returns `save_limit` of a training's checkpoints, as far as it is known."""
    noted = _read(workdir)
    return save_limit(noted.get("bytes", 0), noted.get("seconds", 0.0), least=least)


def is_saving(workdir: str) -> bool:
    """Returns whether a training has begun to save and not ended."""
    return bool(_read(workdir).get("saving"))


def _read(workdir: str) -> dict[str, float]:
    try:
        with open(os.path.join(workdir, _SAVE_TIME_FILE), encoding="utf-8") as file:
            return {name: float(value) for name, value in json.load(file).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # not yet, or of another version
        return {}
