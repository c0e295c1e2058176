"""Checkpoints: one folder each, complete or absent.

  <workdir>/checkpoints/step-00000200/arrays.npz   every array by name
                                      meta.json    step, scores, digests
                        diverged-step-00000300/    set aside by a diverged training, never read

A checkpoint is written under a temporary name, flushed and renamed. `meta.json`
carries the SHA-256 of `arrays.npz` and of itself, so that truncation or damage at any byte
is detected and the previous checkpoint is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model.arrays import ArrayLike, write_arrays
from model.errors import CharloomError, InputError
from model.files import (
    hash_file,
    is_disk_full,
    publish_folder,
    remove_temporaries,
    temporary_folder,
    write_whole,
)

ARRAYS_FILE, META_FILE = "arrays.npz", "meta.json"
_NAME = re.compile(r"step-(\d{8,})")
_DIGEST = "meta_sha256"
log = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, loaded."""

    path: str
    arrays: Arrays
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Training steps done."""
        return int(self.meta["step"])

    @property
    def digest(self) -> str:
        """SHA-256 of `arrays.npz`."""
        return str(self.meta["arrays_sha256"])


def folder(workdir: str) -> str:
    """Returns the folder of a workdir's checkpoints."""
    return os.path.join(workdir, "checkpoints")


def save_checkpoint(
    workdir: str,
    *,
    step: int,
    arrays: Mapping[str, ArrayLike],
    meta: Mapping[str, Any],
) -> str:
    """Writes a checkpoint.

    Args:
      workdir: the training's folder.
      step: training steps done.
      arrays: every array by name.
      meta: JSON values; `valid_log_likelihood` and `valid_words` give the score.

    Returns:
      The checkpoint's folder.

    Raises:
      CharloomError: the disk is full; existing checkpoints stay whole.
    """
    parent = folder(workdir)
    final = os.path.join(parent, f"step-{step:08d}")
    os.makedirs(parent, exist_ok=True)
    remove_temporaries(parent)
    try:
        with temporary_folder(final) as temporary:
            write_checkpoint(temporary, step=step, arrays=arrays, meta=meta)
            if _same_arrays(temporary, final):  # only the score has changed
                with open(os.path.join(temporary, META_FILE), "rb") as file:
                    write_whole(os.path.join(final, META_FILE), file.read())
            else:
                publish_folder(temporary, final, replace=True)
    except OSError as error:
        if not is_disk_full(error):
            raise
        needed = sum(array.nbytes for array in arrays.values())
        raise disk_full_error(parent, needed=needed) from None
    return final


def write_checkpoint(
    path: str, *, step: int, arrays: Mapping[str, ArrayLike], meta: Mapping[str, Any]
) -> None:
    """Writes both files into an empty folder; arguments as for `save_checkpoint`."""
    write_arrays(os.path.join(path, ARRAYS_FILE), arrays)
    digest = hash_file(os.path.join(path, ARRAYS_FILE))
    with open(os.path.join(path, META_FILE), "w", encoding="utf-8", newline="\n") as text:
        text.write(_meta_text({**meta, "step": step, "arrays_sha256": digest}))


def _same_arrays(path: str, other: str) -> bool:
    try:
        return bool(verify_checkpoint(other)["arrays_sha256"] == read_meta(path)["arrays_sha256"])
    except ValueError:
        return False


def disk_full_error(path: str, *, needed: int) -> CharloomError:
    """Returns an error that states the space needed and the space free.

    Args:
      path: folder on the disk in question.
      needed: bytes of a checkpoint.
    """
    megabyte = 1e6
    free = shutil.disk_usage(path).free / megabyte
    return CharloomError(
        f"a checkpoint needs {needed / megabyte:.1f} MB, {free:.1f} MB are free in {path}; free "
        "some and run the same command to continue from the previous checkpoint"
    )


def step_of(path: str) -> int:
    """Returns the step in the name of a checkpoint's folder."""
    return int(os.path.basename(path).removeprefix("step-"))


def list_checkpoints(workdir: str) -> list[str]:
    """Returns the folders of a workdir's checkpoints, newest first, whole or not.

    Raises:
      InputError: the folder of checkpoints can't be read.
    """
    try:
        names = [name for name in os.listdir(folder(workdir)) if _NAME.fullmatch(name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"folder of checkpoints {folder(workdir)} can't be read ({error.strerror}); "
            "make it readable, or choose another --workdir"
        ) from None
    names.sort(key=step_of, reverse=True)
    return [os.path.join(folder(workdir), name) for name in names]


def _meta_text(content: Mapping[str, Any]) -> str:
    """Returns the canonical text of a `meta.json`, including its own digest."""
    plain = json.dumps(content, indent=2)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps({**content, _DIGEST: digest}, indent=2) + "\n"


def read_meta(path: str) -> dict[str, Any]:
    """Reads a checkpoint's `meta.json` without checking its arrays.

    Raises:
      ValueError: it is cut short or damaged.
      OSError: it can't be read.
    """
    with open(os.path.join(path, META_FILE), "rb") as file:
        data = file.read()
    try:
        meta = json.loads(data)
        del meta[_DIGEST]
        whole = _meta_text(meta).encode() == data
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole or "step" not in meta:
        raise ValueError(f"{META_FILE} is cut short or damaged")
    return dict(meta)


def score_of(path: str) -> float:
    """Returns validation log-likelihood per word, -inf without a score."""
    try:
        meta = read_meta(path)
        return float(meta["valid_log_likelihood"]) / int(meta["valid_words"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return float("-inf")


def verify_checkpoint(path: str) -> dict[str, Any]:
    """Checks that a checkpoint is whole; returns its `meta.json`.

    Raises:
      ValueError: it is not whole; the message says why.
      InputError: it is not readable.
    """
    try:
        meta = read_meta(path)
        if hash_file(os.path.join(path, ARRAYS_FILE)) != meta.get("arrays_sha256"):
            raise ValueError(f"{ARRAYS_FILE} is cut short or damaged")
    except PermissionError as error:
        raise InputError(
            f"{error.filename} can't be read ({error.strerror}); make it readable"
        ) from None
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    return meta


def _first_whole(paths: list[str]) -> tuple[str, dict[str, Any]] | None:
    """Returns the first whole checkpoint of some; logs those it skips."""
    for index, path in enumerate(paths):
        try:
            return path, verify_checkpoint(path)
        except InputError:
            raise
        except ValueError as error:
            rest = paths[index + 1 :]
            then = f"falling back to {rest[0]}" if rest else "no older checkpoint exists"
            log.warning("checkpoint %s is not whole (%s); %s", path, error, then)
    return None


def newest_checkpoint(workdir: str) -> str | None:
    """Returns the folder of the newest whole checkpoint, if any; logs those it skips."""
    found = _first_whole(list_checkpoints(workdir))
    return found[0] if found else None


def read_newest(workdir: str) -> Checkpoint | None:
    """Reads the newest whole checkpoint, if any; logs those it skips."""
    found = _first_whole(list_checkpoints(workdir))
    return _read_arrays(*found) if found else None


def read_checkpoint(path: str) -> Checkpoint:
    """Reads one checkpoint.

    Raises:
      ValueError: it is not whole; the message says why.
    """
    return _read_arrays(path, verify_checkpoint(path))


def _read_arrays(path: str, meta: dict[str, Any]) -> Checkpoint:
    with np.load(os.path.join(path, ARRAYS_FILE), allow_pickle=False) as arrays:
        return Checkpoint(path=path, arrays=dict(arrays), meta=meta)


def best_checkpoint(workdir: str) -> Checkpoint:
    """Reads the whole checkpoint with the best validation score, or the newest if none has a score.

    Raises:
      InputError: there is no whole checkpoint.
    """
    paths = list_checkpoints(workdir)
    # The sort is stable: among equals the newest stays first.
    found = _first_whole(sorted(paths, key=score_of, reverse=True))
    if found is None:
        raise InputError(f"{workdir} has no whole checkpoint; run charloom train")
    return _read_arrays(*found)
