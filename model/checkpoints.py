"""Checkpoints: one folder each, whole or not there.

  <workdir>/checkpoints/step-00000200/arrays.npz   every array by name
                                      meta.json    step, scores, digests

A checkpoint is written under a temporary name, flushed and renamed. `meta.json`
carries the SHA-256 of `arrays.npz`, so a cut or damaged one is found out and the
one before is taken.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model.errors import InputError
from model.files import hash_file

ARRAYS_FILE, META_FILE = "arrays.npz", "meta.json"
_NAME = re.compile(r"step-(\d{8,})")
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
    keep: int,
) -> str:
    """Writes a checkpoint, then removes old ones; the best one always stays.

    Args:
      workdir: the training's folder.
      step: training steps done.
      arrays: every array by name.
      meta: JSON values; `valid_log_likelihood` and `valid_words` say how good it is.
      keep: how many of the newest are kept.

    Returns:
      The checkpoint's folder.
    """
    parent = folder(workdir)
    final = os.path.join(parent, f"step-{step:08d}")
    temporary = os.path.join(parent, f".tmp-{step:08d}-{os.getpid()}")
    os.makedirs(parent, exist_ok=True)
    for name in os.listdir(parent):
        if name.startswith(".tmp-"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
    os.makedirs(temporary)
    try:
        with open(os.path.join(temporary, ARRAYS_FILE), "wb") as file:
            np.savez(file, allow_pickle=False, **dict(arrays))
            file.flush()
            os.fsync(file.fileno())
        digest = hash_file(os.path.join(temporary, ARRAYS_FILE))
        content = {**meta, "step": step, "arrays_sha256": digest}
        with open(os.path.join(temporary, META_FILE), "w", encoding="utf-8") as text:
            json.dump(content, text, indent=2)
            text.flush()
            os.fsync(text.fileno())
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step
        os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(workdir, keep=keep)
    return final


def _prune(workdir: str, *, keep: int) -> None:
    paths = list_checkpoints(workdir)
    spared = set(paths[:keep]) | {_best_path(paths)}
    for path in paths:
        if path not in spared:
            shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(workdir: str) -> list[str]:
    """Returns the folders of a workdir's checkpoints, newest first, whole or not."""
    try:
        names = [name for name in os.listdir(folder(workdir)) if _NAME.fullmatch(name)]
    except FileNotFoundError:
        return []
    names.sort(key=lambda name: int(name.removeprefix("step-")), reverse=True)
    return [os.path.join(folder(workdir), name) for name in names]


def read_meta(path: str) -> dict[str, Any]:
    """Returns a checkpoint's `meta.json`, without a look at its arrays."""
    with open(os.path.join(path, META_FILE), encoding="utf-8") as file:
        meta = json.load(file)
    if not isinstance(meta, dict) or "step" not in meta:
        raise ValueError(f"{META_FILE} has no step")
    return meta


def _score(path: str) -> float:
    """Returns log-likelihood per word on the validation split; -inf if there is none."""
    try:
        meta = read_meta(path)
        return float(meta["valid_log_likelihood"]) / int(meta["valid_words"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return float("-inf")


def _best_path(paths: list[str]) -> str | None:
    return max(paths, key=_score, default=None)


def verify_checkpoint(path: str) -> dict[str, Any]:
    """Returns the `meta.json` of a whole checkpoint.

    Raises:
      ValueError: it is not whole; the message says why.
    """
    try:
        meta = read_meta(path)
        if hash_file(os.path.join(path, ARRAYS_FILE)) != meta.get("arrays_sha256"):
            raise ValueError(f"{ARRAYS_FILE} is cut short or damaged")
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    return meta


def _first_whole(paths: list[str]) -> str | None:
    """Returns the first whole one of some checkpoints; says which ones it passed over."""
    for index, path in enumerate(paths):
        try:
            verify_checkpoint(path)
            return path
        except ValueError as error:
            rest = paths[index + 1 :]
            then = f"falling back to {rest[0]}" if rest else "there is none before it"
            log.warning("checkpoint %s is not whole (%s); %s", path, error, then)
    return None


def newest_checkpoint(workdir: str) -> str | None:
    """Returns the folder of the newest whole checkpoint; says which ones it passed over."""
    return _first_whole(list_checkpoints(workdir))


def read_checkpoint(path: str) -> Checkpoint:
    """Reads one checkpoint.

    Raises:
      ValueError: it is not whole; the message says why.
    """
    meta = verify_checkpoint(path)
    with np.load(os.path.join(path, ARRAYS_FILE), allow_pickle=False) as arrays:
        return Checkpoint(path=path, arrays=dict(arrays), meta=meta)


def best_checkpoint(workdir: str) -> Checkpoint:
    """Reads the whole checkpoint with the best validation score, the newest if none has one.

    Raises:
      InputError: there is no whole checkpoint.
    """
    paths = list_checkpoints(workdir)
    # A stable sort: among equals the newest stays first.
    found = _first_whole(sorted(paths, key=_score, reverse=True))
    if found is None:
        raise InputError(f"{workdir} has no whole checkpoint; run charloom train")
    return read_checkpoint(found)
