"""One training worker: `python -m components.train.worker`, with TF_CONFIG in its environment."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time

from components.task import reporting_errors
from model.config import read_config


def main(arguments: list[str] | None = None) -> None:
    """Joins the worker group and trains; exits with a `CharloomError`'s code on one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--config", required=True, help="JSON file of the whole config")
    parser.add_argument("--threads", type=int, default=0, help="cores for one op; 0: all")
    parser.add_argument("--launcher", type=int, help="process id; end when it is gone")
    options = parser.parse_args(arguments)
    if options.launcher is not None:
        _end_with_launcher(options.launcher)
    with reporting_errors():
        _train(options)


def _train(options: argparse.Namespace) -> None:
    # Imported late, so that a wrong flag is told without waiting for TensorFlow.
    from model.cluster import join_cluster
    from model.records import Dataset
    from model.training import check_config, train_and_evaluate

    cluster = join_cluster(threads=options.threads)
    logging.getLogger("tensorflow").handlers.clear()  # it has its own; every line came twice
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format=f"%(asctime)s worker {cluster.rank}: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.info(
        "rank %d of %d, %d replicas in sync",
        cluster.rank,
        cluster.size,
        cluster.strategy.num_replicas_in_sync,
    )
    config = read_config(options.config)
    with Dataset.open(options.records) as dataset:
        config = check_config(config, dataset, workers=cluster.size)
        result = train_and_evaluate(
            config, dataset=dataset, workdir=options.workdir, cluster=cluster
        )
    logging.info("finished at step %d", result["step"])


def _end_with_launcher(launcher: int) -> None:
    """Ends this process when its launcher is gone: nobody would read or restart it.

    Args:
      launcher: its process id, handed over, as it may be gone before we can ask for it.
    """

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


if __name__ == "__main__":
    main()
