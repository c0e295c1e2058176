"""The train stage: checks, workers, progress."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from components.train.cluster.manifest import JobSetOptions
from components.train.initial_weights import BEGINNING, begin
from components.train.launching import Follower
from components.train.local.launcher import launch_local
from components.train.training_job import CONFIG_FILE, TrainingJob
from model.checkpointing.checkpoints import best_checkpoint, newest_checkpoint, read_meta
from model.config import Config, read_config, to_json
from model.data.records import Dataset
from model.errors import InputError
from model.files import (
    COMPLETED_FILE,
    TEMPORARY_MARK,
    is_complete,
    list_entries,
    lock_file,
    write_whole,
)
from model.metrics import METRICS_FILE, perplexity
from model.training.config_checks import FREE_FIELDS, check_config

LOCK_FILE = ".lock"


def run(job: TrainingJob, config: Config, *, jobset: JobSetOptions | None = None) -> dict[str, Any]:
    """Trains a model, or resumes an interrupted training.

    Args:
      job: the training; its workdir is new, empty, or of the same training, and receives
        checkpoints/, tensorboard/, logs/worker-<rank>.log, metrics.jsonl, config.json and, last,
        COMPLETED.
      config: the whole config; its data section is replaced by the records' one.
      jobset: how to run the workers as pods of a cluster; None: as local processes.

    Returns:
      step, valid_perplexity (of the best checkpoint; None without a validation split)
      and checkpoint (its folder).

    Raises:
      InputError: bad records, workdir or config.
      RestartableError: workers were lost too often, or SIGTERM was received; the same call
        resumes.
      KeyboardInterrupt: Ctrl-C; the training is saved, and the same call resumes.
      CharloomError: training failed.
    """
    workdir = job.workdir
    with Dataset.open(job.records) as dataset:
        config = check_config(config, dataset, workers=job.workers)
        is_new = _open_workdir(workdir, config)
        with _locked(workdir):
            done = _steps_done(workdir, config, dataset=dataset)
            begin(workdir, config, dataset=dataset, warm_start=job.warm_start, is_new=is_new)
            if job.profile:
                job.profile.check(done=done, steps=config.train.steps)
            return _train(job, config, done=done, jobset=jobset)


def _steps_done(workdir: str, config: Config, *, dataset: Dataset) -> int:
    """Returns the step of the newest whole checkpoint, 0 without one.

    Raises:
      InputError: it belongs to other records, or exceeds `config.train.steps`.
    """
    newest = newest_checkpoint(workdir)
    if newest is None:
        return 0
    meta = read_meta(newest)
    if meta.get("dataset_digest") != dataset.digest:
        raise InputError(
            f"workdir {workdir} was trained on other records than {dataset.path}; choose another"
        )
    done = int(meta["step"])
    if done > config.train.steps:
        raise InputError(
            f"workdir {workdir} is already trained to step {done}, beyond train.steps="
            f"{config.train.steps}; raise train.steps or choose another --workdir"
        )
    if done < config.train.steps or not is_complete(workdir):
        print(f"continuing from step {done} ({newest})", flush=True)
    return done


def _train(
    job: TrainingJob, config: Config, *, done: int, jobset: JobSetOptions | None
) -> dict[str, Any]:
    workdir = job.workdir
    if is_complete(workdir):
        if done == config.train.steps:
            print(f"{workdir} is already trained to step {done}")
            return _result(workdir)
        os.remove(os.path.join(workdir, COMPLETED_FILE))
    try:
        write_whole(job.config_file, to_json(config))
    except OSError as error:
        raise InputError(
            f"workdir {workdir} can't be written ({error.strerror}); free some space, or choose another"
        ) from None
    with ProgressBar(workdir, steps=config.train.steps, done=done) as bar:
        if jobset is None:
            launch_local(job.absolute(), follower=bar)
        else:
            from components.train.cluster.launcher import launch_jobset  # Kubernetes is slow

            launch_jobset(job.absolute(), jobset, follower=bar)
    return _result(workdir)


@contextlib.contextmanager
def _locked(workdir: str) -> Iterator[None]:
    """Keeps other trainings out of the workdir; the lock ends with the process."""
    with open(os.path.join(workdir, LOCK_FILE), "w", encoding="utf-8") as file:
        if not lock_file(file, wait=False):
            raise InputError(
                f"another training is running in workdir {workdir}; wait for it or choose another"
            )
        yield


def _result(workdir: str) -> dict[str, Any]:
    best = best_checkpoint(workdir)
    words = best.meta.get("valid_words")
    value = perplexity(best.meta["valid_log_likelihood"], words) if words else None
    return {"step": best.step, "valid_perplexity": value, "checkpoint": best.path}


def _open_workdir(workdir: str, config: Config) -> bool:
    """Creates the workdir, or checks that it is of the same training; returns whether it is new."""
    try:
        os.makedirs(workdir, exist_ok=True)
        names = {name.partition(TEMPORARY_MARK)[0] for name in list_entries(workdir)}
    except OSError as error:
        raise InputError(
            f"workdir {workdir} can't be used ({error.strerror}); choose another"
        ) from None
    if not os.access(workdir, os.W_OK):
        raise InputError(f"workdir {workdir} is not writable; choose another")
    if not names - {LOCK_FILE, *BEGINNING}:
        return True
    path = os.path.join(workdir, CONFIG_FILE)
    if not os.path.exists(path):
        raise InputError(
            f"workdir {workdir} already contains something other than a training ({sorted(names)[0]}); "
            "choose another"
        )
    begun = read_config(path)
    for section in ("model", "train", "data"):
        old, new = getattr(begun, section), getattr(config, section)
        for field in dataclasses.fields(old):
            before, after = getattr(old, field.name), getattr(new, field.name)
            if before != after and not (section == "train" and field.name in FREE_FIELDS):
                raise InputError(
                    f"workdir {workdir} was started with {section}.{field.name}={before}, not "
                    f"{after}; use the same setting or choose another --workdir"
                )
    return False


class ProgressBar(Follower):
    """Shows the chief's metrics as they are written: a bar on a terminal, otherwise lines."""

    def __init__(self, workdir: str, *, steps: int, done: int):
        """Follows a workdir's metrics file up to `steps`; shows what follows step `done`."""
        self._done = done
        self._path = os.path.join(workdir, METRICS_FILE)
        self._interactive = sys.stderr.isatty()
        self._offset, self._inode = 0, 0
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self._path)
            self._offset, self._inode = found.st_size, found.st_ino
        self._valid = ""
        self._bar = tqdm(
            total=steps,
            unit="step",
            disable=not self._interactive,
            bar_format="{desc}{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.close()

    def update(self) -> None:
        """Shows what was written since the last call."""
        try:
            with open(self._path, encoding="utf-8") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:  # rewritten by a starting worker
                    self._offset, self._inode = 0, inode
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind("\n") + 1]
        self._offset += len(whole.encode())
        for line in whole.splitlines():
            self._show(json.loads(line))

    def restarting(self, line: str, *, step: int) -> None:
        """Prints the reason for a restart; shows what follows `step` again."""
        self._done = step
        if self._interactive:
            self._bar.write(line)
        else:
            print(line, flush=True)

    def _show(self, row: dict[str, Any]) -> None:
        if row["step"] <= self._done:
            return
        if "valid_words" in row:
            value = perplexity(row["valid_log_likelihood"], row["valid_words"])
            self._valid = f"  valid. ppl {value:.1f}"
            if not self._interactive:
                print(f"step {row['step']}  validation perplexity {value:.2f}", flush=True)
            return
        left = "{}:{:02d}".format(*divmod(round(row["seconds_left"]), 60))
        text = (
            f"loss {row['loss']:.4f}  ppl {perplexity(-row['loss'], 1):.1f}"
            f"  {row['words_per_second']:,.0f} words/s  {left} left"
        )
        if self._interactive:
            self._bar.n = row["step"]
            self._bar.set_postfix_str(text + self._valid)
        else:
            print(f"step {row['step']}/{row['steps']}  {text}", flush=True)
