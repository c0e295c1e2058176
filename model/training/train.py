"""Training under `MultiWorkerMirroredStrategy`, in our own loop.

Every worker runs `train_and_evaluate` with the same arguments. The result depends only on config,
records and step, so a run resumed from a checkpoint ends like an uninterrupted one.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from model.checkpointing.checkpoints import disk_full_error, read_newest
from model.checkpointing.origin import read_warm_start
from model.config import Config
from model.data.records import Dataset
from model.distributed.cluster import Cluster, reporting_lost_peers
from model.distributed.stop_signals import StopSignals, StopVote
from model.distributed.watchdog import Watchdog
from model.errors import CharloomError
from model.files import COMPLETED_FILE, is_disk_full, write_whole
from model.metrics import perplexity
from model.training.loop import TrainLoop
from model.training.metrics_log import RunLog
from model.training.profiler import ProfileSteps
from model.training.reporter import Reporter
from model.training.state import Training, begin_with, build_training, checkpoint_bytes, restore

log = logging.getLogger(__name__)


def train_and_evaluate(
    config: Config,
    *,
    dataset: Dataset,
    workdir: str,
    cluster: Cluster,
    profile: ProfileSteps | None = None,
    signals: StopSignals | None = None,
    watchdog: Watchdog | None = None,
) -> dict[str, Any]:
    """Trains to `config.train.steps`, from the newest whole checkpoint if there is one.

    Without one it starts from the weights of a warm start, if the workdir has them.

    Args:
      config: as `model.training.config_checks.check_config` returns it.
      dataset: the records.
      workdir: receives checkpoints/, tensorboard/, metrics.jsonl and, last, COMPLETED.
      cluster: this worker's place.
      profile: the steps for the chief to trace.
      signals: whether this worker was asked to stop.
      watchdog: receives signs of progress.

    Returns:
      step, valid_perplexity (None without a validation split).

    Raises:
      InputError: the workdir belongs to other records or another model.
      StoppedError: a worker was asked to stop; the training is saved.
      RestartableError: a peer was lost.
      CharloomError: the loss is not finite or diverges, or the disk is full.
    """
    signals, watchdog = signals or StopSignals(), watchdog or Watchdog()
    with reporting_lost_peers(cluster.rank, lambda: watchdog.doing), watchdog.watching():
        watchdog.beat("building the model", slow=True)
        training = _restored(config, dataset=dataset, workdir=workdir, cluster=cluster)
        vote = StopVote(cluster, signals)
        try:
            return _train(
                training, workdir, profile=profile, signals=signals, vote=vote, watchdog=watchdog
            )
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise disk_full_error(workdir, needed=checkpoint_bytes(training)) from None


def _restored(config: Config, *, dataset: Dataset, workdir: str, cluster: Cluster) -> Training:
    """Returns the training restored from its newest checkpoint, the same on all workers."""
    training = build_training(config, dataset, cluster)
    newest = read_newest(workdir)
    if newest:
        restore(training, newest)
        log.info("continuing from step %d, checkpoint %s", training.step, newest.path)
    elif start := read_warm_start(workdir):
        begin_with(training, start)
        log.info("starting from the weights of %s", start.meta["path"])
    # Some bits of the digest, few enough for float32 to sum exactly.
    mark = int(newest.digest[:4], 16) if newest else 0
    if cluster.add([float(mark)]) != [float(mark * cluster.size)]:
        raise CharloomError(
            f"worker {cluster.rank} reads step {training.step} as the newest checkpoint in "
            f"{workdir} but others read another one; check that all workers see the same folder"
        )
    return training


def _train(
    training: Training,
    workdir: str,
    *,
    profile: ProfileSteps | None,
    signals: StopSignals,
    vote: StopVote,
    watchdog: Watchdog,
) -> dict[str, Any]:
    config, cluster = training.config, training.cluster
    run_log = RunLog(
        workdir,
        step=training.step,
        steps=config.train.steps,
        chief=cluster.is_chief,
        is_scored=training.valid is not None,
    )
    run_log.start(config, workdir=workdir)
    reporter = Reporter(training, workdir, run_log=run_log, profile=profile)
    loop = TrainLoop(training, workdir, reporter, vote=vote, watchdog=watchdog)
    signals.training_begins()
    try:
        loop.run()
        valid = perplexity(*training.valid) if training.valid else None
        reporter.finish(valid_perplexity=valid)
    finally:
        reporter.close()
        run_log.close()
    if cluster.is_chief:
        marker = os.path.join(workdir, COMPLETED_FILE)
        write_whole(marker, f"{training.step}\n")
    # A worker that leaves early takes its part of TensorFlow's services away from the others.
    watchdog.beat("waiting for the other workers to finish", slow=True)
    cluster.wait_for_all()
    return {"step": training.step, "valid_perplexity": valid}
