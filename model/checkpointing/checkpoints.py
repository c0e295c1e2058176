"""Checkpoints: one folder each, whole or not there.

  <workdir>/checkpoints/step-00000200/arrays.npz   every array by name
                                      meta.json    step, scores, digests
                        diverged-step-00000300/    one of a broken model, which nothing reads

A checkpoint is written under a temporary name, flushed and renamed. `meta.json`
carries the SHA-256 of `arrays.npz` and of itself, so that one that is cut or damaged
at any byte is found out and the one before is taken.
"""

from __future__ import annotations

import dataclasses
import errno
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

from model.arrays import write_arrays
from model.errors import CharloomError, InputError
from model.files import hash_file, publish_folder, remove_temporaries, temporary_folder, write_whole

ARRAYS_FILE, META_FILE = "arrays.npz", "meta.json"
_NAME = re.compile(r"step-(\d{8,})")
_DIGEST = "meta_sha256"
log = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read back."""

    path: str
    arrays: Arrays
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Training steps done."""
        return int(self.meta["step"])

    @property
    def digest(self) -> str:
        """SHA-256 of the arrays' file."""
        return str(self.meta["arrays_sha256"])


def folder(workdir: str) -> str:
    """Returns the folder of a workdir's checkpoints."""
    return os.path.join(workdir, "checkpoints")


def save_checkpoint(
    workdir: str,
    *,
    step: int,
    arrays: Mapping[str, npt.NDArray[Any]],
    meta: Mapping[str, Any],
) -> str:
    """Writes a checkpoint.

    Args:
      workdir: the training's folder.
      step: training steps done.
      arrays: every array by name.
      meta: JSON values; `valid_log_likelihood` and `valid_words` say how good it is.

    Returns:
      The checkpoint's folder.

    Raises:
      CharloomError: the disk is full; the checkpoints that are there stay whole.
    """
    parent = folder(workdir)
    final = os.path.join(parent, f"step-{step:08d}")
    os.makedirs(parent, exist_ok=True)
    remove_temporaries(parent)
    try:
        with temporary_folder(final) as temporary:
            write_checkpoint(temporary, step=step, arrays=arrays, meta=meta)
            if _same_arrays(temporary, final):  # only the score is new
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
    path: str, *, step: int, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]
) -> None:
    """Writes both files into an empty folder; arguments as above."""
    write_arrays(os.path.join(path, ARRAYS_FILE), arrays)
    digest = hash_file(os.path.join(path, ARRAYS_FILE))
    with open(os.path.join(path, META_FILE), "w", encoding="utf-8", newline="\n") as text:
        text.write(_meta_text({**meta, "step": step, "arrays_sha256": digest}))


def _same_arrays(path: str, other: str) -> bool:
    """Whether the second of two checkpoints is there, whole, and has the arrays of the first."""
    try:
        return bool(verify_checkpoint(other)["arrays_sha256"] == read_meta(path)["arrays_sha256"])
    except ValueError:
        return False


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of room, or of quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full_error(path: str, *, needed: int) -> CharloomError:
    """Returns the error that tells how much room is needed, and how much there is.

    Args:
      path: folder on the disk in question.
      needed: bytes of a checkpoint.
    """
    megabyte = 1e6
    free = shutil.disk_usage(path).free / megabyte
    return CharloomError(
        f"a checkpoint needs {needed / megabyte:.1f} MB, {free:.1f} MB are free in {path}; free "
        "some and run the same command to go on from the checkpoint before"
    )


def step_of(path: str) -> int:
    """Returns the step of a checkpoint by the name of its folder."""
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
    """Returns the one way in which a `meta.json` is written, its own digest in it."""
    plain = json.dumps(content, indent=2)
    digest = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps({**content, _DIGEST: digest}, indent=2) + "\n"


def read_meta(path: str) -> dict[str, Any]:
    """Returns a checkpoint's `meta.json`, without a look at its arrays.

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
    """Returns log-likelihood per word on the validation split; -inf if there is none."""
    try:
        meta = read_meta(path)
        return float(meta["valid_log_likelihood"]) / int(meta["valid_words"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return float("-inf")


def verify_checkpoint(path: str) -> dict[str, Any]:
    """Returns the `meta.json` of a whole checkpoint.

    Raises:
      ValueError: it is not whole; the message says why.
      InputError: it may not be read.
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
    """Returns the first whole one of some checkpoints; says which ones it passed over."""
    for index, path in enumerate(paths):
        try:
            return path, verify_checkpoint(path)
        except InputError:
            raise
        except ValueError as error:
            rest = paths[index + 1 :]
            then = f"falling back to {rest[0]}" if rest else "there is none before it"
            log.warning("checkpoint %s is not whole (%s); %s", path, error, then)
    return None


def newest_checkpoint(workdir: str) -> str | None:
    """Returns the folder of the newest whole checkpoint; says which ones it passed over."""
    found = _first_whole(list_checkpoints(workdir))
    return found[0] if found else None


def read_newest(workdir: str) -> Checkpoint | None:
    """Reads the newest whole checkpoint, if there is any; says which ones it passed over."""
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
    """Reads the whole checkpoint with the best validation score, the newest if none has one.

    Raises:
      InputError: there is no whole checkpoint.
    """
    paths = list_checkpoints(workdir)
    # A stable sort: among equals the newest stays first.
    found = _first_whole(sorted(paths, key=score_of, reverse=True))
    if found is None:
        raise InputError(f"{workdir} has no whole checkpoint; run charloom train")
    return _read_arrays(*found)
