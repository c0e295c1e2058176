"""What several commands need: the config that was asked for, and a quiet TensorFlow."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

from components.preprocess.analysis.drift_limits import read_digest
from components.run_settings import RunSettings, read_run
from model import presets
from model.config import Config, read_config
from model.errors import InputError
from pipelines.cli import flags

Add = Callable[..., argparse.ArgumentParser]
"""Makes the parser of a command: of the subparsers, name, function and help."""


IS_PRODUCT = "output_is_product"
"""Set in the options of a command that is run for its output only, and may end when nobody reads it."""


def import_tensorflow() -> None:
    """Hides what TensorFlow's C++ parts print while they load; shows it if loading fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            import tensorflow
            import tensorflow_text  # noqa: F401 (registers ops of exported models)

            tensorflow.constant(0)  # the devices are looked for here
        except Exception:
            file.seek(0)
            os.write(saved, file.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def read_settings(options: argparse.Namespace) -> tuple[Config, RunSettings]:
    """Returns the preset or config file as --set and other flags change it, and the run's settings.

    Raises:
      InputError: one of them is wrong, or there are no records to compare to.
    """
    config = read_config(options.config) if options.config else presets.get_preset(options.preset)
    config, run = read_run(config, flags.list_settings(options))
    if run.compare_to:
        read_digest(run.compare_to)
    return config, run


def refuse_sections(settings: Sequence[str], command: str, *, allowed: Sequence[str]) -> None:
    """Raises InputError for a setting that a command would not use."""
    for setting in settings:
        section = setting.split(".")[0].strip()
        if section not in allowed:
            raise InputError(
                f"--set {setting} has no effect on charloom {command}, which takes fields of "
                f"{', '.join(allowed)}; set it where the folder is made"
            )
