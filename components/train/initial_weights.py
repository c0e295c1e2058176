"""With which weights a training begins, kept in its folder so that it can go on."""

from __future__ import annotations

import os
import shutil

from model.checkpointing.checkpoints import read_meta
from model.checkpointing.compatibility import check_same_model
from model.checkpointing.published import load_published, read_trained_digest
from model.checkpointing.warm_start import FOLDER, write_warm_start
from model.config import Config
from model.data.records import Dataset
from model.data.seen import SEEN_FILE
from model.data.seen_records import save_training
from model.errors import InputError
from model.files import remove_temporaries

BEGINNING = (FOLDER, SEEN_FILE)
"""What a training that was stopped at once leaves in its folder; it then begins anew."""


def begin(workdir: str, config: Config, *, dataset: Dataset, warm_start: str, is_new: bool) -> None:
    """Writes the weights to begin with, or checks that the training began with them.

    The folder also gets what the model will have seen, by this training and before.

    Args:
      workdir: the training's folder.
      config: its config.
      dataset: its records.
      warm_start: folder of a published version; empty to begin with random weights.
      is_new: whether the training has not begun yet.

    Raises:
      InputError: the version can't be read or is of another model, or the training began with
        something else.
    """
    if is_new:
        remove_temporaries(workdir)
        shutil.rmtree(os.path.join(workdir, FOLDER), ignore_errors=True)
        if warm_start:
            published = load_published(warm_start)
            check_same_model(warm_start, published.config, config)
            write_warm_start(workdir, published, dataset.vocab)
    else:
        _check_beginning(workdir, warm_start)
    problem = save_training(workdir, dataset, base=warm_start, is_new=is_new)
    if problem:
        print(f"warning: {problem}; evaluate will reject the model", flush=True)


def _check_beginning(workdir: str, warm_start: str) -> None:
    began = _read_beginning(workdir)
    given = read_trained_digest(warm_start) if warm_start else ""
    if began == given:
        return
    how = f"with the weights of {warm_start}" if warm_start else "without --warm-start"
    other = "other weights" if began else "random weights"
    raise InputError(
        f"workdir {workdir} was begun with {other} and can't go on {how}; use the same "
        "--warm-start or choose another --workdir"
    )


def _read_beginning(workdir: str) -> str:
    path = os.path.join(workdir, FOLDER)
    if not os.path.isdir(path):
        return ""
    try:
        return str(read_meta(path)["checkpoint"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not whole ({error}); choose another --workdir") from None
