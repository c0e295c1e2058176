"""Which checkpoints are kept: only whole ones count, and the newest good one stays.

<workdir>/checkpoints/diverged-step-00000300/   set aside by a diverged training, never read

A checkpoint is known to be good once the loss of the following step has been seen and is not
high (`model.training.divergence.LossWatch`). Reasons: docs/decisions/0023.
"""

from __future__ import annotations

import itertools
import os
import shutil

from model.checkpointing.checkpoints import (
    ARRAYS_FILE,
    META_FILE,
    list_checkpoints,
    score_of,
    step_of,
    verify_checkpoint,
)
from model.errors import InputError

_ASIDE = "diverged-"


class WholeCheck:
    """Checks whether checkpoints are whole; rereads one only if its files have changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], bool]] = {}

    def __call__(self, path: str) -> bool:
        """Returns whether a checkpoint is whole.

        Raises:
          InputError: it is not readable, so its state is unknown.
        """
        stamp = _stamp(path)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            try:
                verify_checkpoint(path)
                known = stamp, True
            except InputError:
                raise
            except ValueError:
                known = stamp, False
            self._known[path] = known
        return known[1]


def _stamp(path: str) -> tuple[int, ...]:
    """Returns a value that changes whenever a checkpoint's files are written."""
    stamp: tuple[int, ...] = ()
    for name in (ARRAYS_FILE, META_FILE):
        try:
            found = os.stat(os.path.join(path, name))
        except OSError as error:
            stamp += (-(error.errno or 1),)
        else:
            stamp += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return stamp


def prune_checkpoints(
    workdir: str,
    *,
    keep: int,
    written: str,
    good_step: int | None = None,
    is_whole: WholeCheck | None = None,
) -> None:
    """Removes old checkpoints after writing one.

    Keeps the one just written, the newest `keep` whole ones and everything newer than the oldest of
    these, the best whole one, and the newest whole one known to be good.

    Args:
      workdir: the training's folder.
      keep: how many of the newest whole ones are kept.
      written: folder of the checkpoint just written.
      good_step: the model was good until after this step; None: until now.
      is_whole: caches which ones are whole between calls.
    """
    check = is_whole or WholeCheck()
    good_step = step_of(written) if good_step is None else good_step
    paths = list_checkpoints(workdir)
    spared = {written}

    def whole(path: str) -> bool:
        try:
            return check(path)
        except InputError:
            spared.add(path)
            return False

    newest = list(itertools.islice(filter(whole, paths), keep))
    if len(newest) < keep:
        return
    good = (path for path in paths if step_of(path) <= good_step and whole(path))
    # The sort is stable: among equals the newest stays first.
    best = filter(whole, sorted(paths, key=score_of, reverse=True))
    spared |= {next(good, written), next(best, written)}
    for path in paths[paths.index(newest[-1]) + 1 :]:
        if path not in spared:
            shutil.rmtree(path, ignore_errors=True)


def set_aside(workdir: str, *, first_bad: int) -> list[str]:
    """Renames the checkpoints of a diverged model, so that training resumes from an older one.

    The weights after step N - 1 gave the loss of step N. So if N is the first bad step, the newest
    good checkpoint is at step N - 2 or before.

    Args:
      workdir: the training's folder.
      first_bad: the first step whose loss was bad.

    Returns:
      The new names of the folders, newest first.
    """
    renamed = []
    for path in list_checkpoints(workdir):
        if step_of(path) >= first_bad - 1:
            parent, name = os.path.split(path)
            target = os.path.join(parent, _ASIDE + name)
            shutil.rmtree(target, ignore_errors=True)  # left by an earlier divergence
            os.rename(path, target)
            renamed.append(target)
    return renamed
