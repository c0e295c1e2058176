"""Shared by several commands: reading the config and the run's settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from components.preprocess.analysis.drift_limits import read_digest
from components.run_settings import RunSettings, read_run
from model import presets
from model.config import Config, read_config
from model.errors import InputError
from pipelines.cli import flags

Add = Callable[..., argparse.ArgumentParser]
"""Creates a command's parser from the subparsers, name, function and help."""


def read_settings(options: argparse.Namespace) -> tuple[Config, RunSettings]:
    """Returns the config and the run's settings, with --set and other flags applied.

    Raises:
      InputError: one of them is wrong, or there are no records to compare with.
    """
    config = read_config(options.config) if options.config else presets.get_preset(options.preset)
    config, run = read_run(config, flags.list_settings(options))
    if run.compare_to:
        read_digest(run.compare_to)
    return config, run


def refuse_sections(settings: Sequence[str], command: str, *, allowed: Sequence[str]) -> None:
    """Raises InputError for a setting that a command would ignore."""
    for setting in settings:
        section = setting.split(".")[0].strip()
        if section not in allowed:
            raise InputError(
                f"--set {setting} has no effect on charloom {command}, which uses fields of "
                f"{', '.join(allowed)}; set it for the command that writes the folder"
            )
