"""Writes the weights of a warm start: `python -m components.train.weights_writer`.

Reads the training's config from standard input, as JSON.
"""

from __future__ import annotations

import argparse
import sys

from components.component_runtime import quick_imports, reporting_errors
from components.train.worker import end_with_launcher
from model.checkpointing.compatibility import check_same_model
from model.config import from_json
from model.data.records import Dataset


def main() -> None:
    """Writes a workdir's `warm_start/`; exits with a `CharloomError`'s code on one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True, help="folder of a published version")
    parser.add_argument("--records", required=True, help="of the training")
    parser.add_argument("--workdir", required=True, help="of the training")
    parser.add_argument("--launcher", type=int, required=True, help="process id; end with it")
    options = parser.parse_args()
    end_with_launcher(options.launcher)
    config = from_json(sys.stdin.read())
    with reporting_errors(), Dataset.open(options.records) as dataset:
        # Imported late: the launcher may be gone before TensorFlow is loaded.
        with quick_imports():
            from model.checkpointing.trained import load_published
            from model.checkpointing.warm_start import write_warm_start

        published = load_published(options.version)
        check_same_model(options.version, published.config, config)
        write_warm_start(options.workdir, published, dataset.vocab)


if __name__ == "__main__":
    main()
