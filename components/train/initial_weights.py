"""Stores the weights a training starts from in its folder, so that it can be resumed.

The weights of a published version are written by another process, weights_writer.py, because that
needs TensorFlow, unlike the rest of the launcher.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from components.component_runtime import read_error
from components.train.launching import child_environment
from model.checkpointing.checkpoints import read_meta
from model.checkpointing.origin import WARM_START_FOLDER, read_trained_digest
from model.checkpointing.seen_records import save_training
from model.config import Config, to_json
from model.data.records import Dataset
from model.data.seen import SEEN_FILE
from model.errors import CharloomError, InputError
from model.files import remove_temporaries, scratch_folder

BEGINNING = (WARM_START_FOLDER, SEEN_FILE)
"""Left by a training that was stopped at once; it then starts over."""


def begin(workdir: str, config: Config, *, dataset: Dataset, warm_start: str, is_new: bool) -> None:
    """Writes the initial weights, or checks that the training started from them.

    Also records in the folder the text that the model will have seen.

    Args:
      workdir: the training's folder.
      config: its config.
      dataset: its records.
      warm_start: folder of a published version; empty for random weights.
      is_new: whether the training has not started yet.

    Raises:
      InputError: the version can't be read or has another model, or the training started from
        other weights.
      CharloomError: the weights could not be written.
    """
    if is_new:
        remove_temporaries(workdir)
        shutil.rmtree(os.path.join(workdir, WARM_START_FOLDER), ignore_errors=True)
        if warm_start:
            try:
                _write_weights(workdir, config, records=dataset.path, version=warm_start)
            finally:
                remove_temporaries(workdir)  # of a writer that was killed by a signal to us
    else:
        _check_beginning(workdir, warm_start)
    problem = save_training(workdir, dataset, base=warm_start, is_new=is_new)
    if problem:
        print(f"warning: {problem}; evaluate will reject the model", flush=True)


def _write_weights(workdir: str, config: Config, *, records: str, version: str) -> None:
    """Runs the writer, and stops it whenever this process ends."""
    command = [sys.executable, "-m", "components.train.weights_writer", "--version", version]
    command += ["--records", records, "--workdir", workdir, "--launcher", str(os.getpid())]
    with scratch_folder() as folder:
        error_file = os.path.join(folder, "error.json")
        writer = subprocess.run(
            command,
            input=to_json(config),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=child_environment(error_file),
            check=False,
        )
        if not writer.returncode:
            return
        error = read_error(error_file)
        if error is None:
            print(writer.stdout, file=sys.stderr, flush=True)
            error = CharloomError(
                f"the weights of {version} could not be read or written (exit code "
                f"{writer.returncode}); the reason is above"
            )
        raise error


def _check_beginning(workdir: str, warm_start: str) -> None:
    began = _read_beginning(workdir)
    given = read_trained_digest(warm_start) if warm_start else ""
    if began == given:
        return
    how = f"from the weights of {warm_start}" if warm_start else "without --warm-start"
    other = "other weights" if began else "random weights"
    raise InputError(
        f"workdir {workdir} was started with {other} and can't continue {how}; use the same "
        "--warm-start or choose another --workdir"
    )


def _read_beginning(workdir: str) -> str:
    path = os.path.join(workdir, WARM_START_FOLDER)
    if not os.path.isdir(path):
        return ""
    try:
        return str(read_meta(path)["checkpoint"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not whole ({error}); choose another --workdir") from None
