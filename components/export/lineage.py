"""The versions that a run starts from and is compared with: its place in the line of champions.

A run has an identity, which its report and its version's manifest carry. It includes the digests of
the versions that the run starts from and is compared with: the same text after another champion is
another run. A repeated run starts from the same version and is compared with the same one, even if
its own version has become champion meanwhile; so it produces the same model, which is already
published.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from components.evaluate.report_fields import look_up
from components.export.manifest import made_of
from components.export.registry import RegisteredModel, find_model
from model.errors import InputError
from model.files import holds_saved_model

CHAMPION = "champion"
"""Stands for the folder of the registry's champion."""


class Beginning(NamedTuple):
    """Folders of versions, empty where there is none, and what follows from them."""

    champion: str
    """Version that the run's model is compared with."""
    base: str
    """Version whose weights training starts from."""
    run: str
    """Identity of the run."""
    reference: str
    """The best version so far, which limits the drift of the run's model. If it is gone, the gate
    gives that as its reason."""


Identify = Callable[[str, str], str]
"""Returns the run's identity, given the digests of the checkpoints that it starts from and is
compared with; empty where there is none."""


def find_beginning(model: RegisteredModel, *, warm_start: str, identify: Identify) -> Beginning:
    """Finds the versions that a run starts from and is compared with, and the run's identity.

    Args:
      model: the model that the run makes a new version of.
      warm_start: empty, `CHAMPION`, or the folder of a version or of a model.
      identify: computes the run's identity.

    Raises:
      InputError: a version is damaged or can't be found.
    """
    champion = model.champion_folder() or ""
    follows = warm_start == CHAMPION or (
        bool(champion) and os.path.realpath(warm_start) == os.path.realpath(model.folder)
    )
    base = champion if follows else _find(warm_start)
    report = _read_report(champion) if champion else {}
    if report.get("run"):
        begun = _text(report, "warm_start.checkpoint") if follows else _digest_of(base)
        run = identify(begun, _text(report, "champion.checkpoint_digest"))
        if run == report["run"]:
            print(f"{champion} was made by this run", flush=True)
            base = _path_in(report, "warm_start") if follows else base
            reference = _text(report, "reference.path")  # if it is gone, the gate reports it
            return Beginning(_path_in(report, "champion"), base, run, reference)
    run = identify(_digest_of(base), _digest_of(champion))
    return Beginning(champion, base, run, model.reference_folder() or "")


def _find(warm_start: str) -> str:
    return os.path.abspath(find_model(warm_start)) if warm_start else ""


def _digest_of(version: str) -> str:
    """Returns the digest of the checkpoint that a version was made from; empty for no version."""
    if not version:
        return ""
    digest = made_of(version)
    if digest is None:
        raise InputError(
            f"{version} has no whole MANIFEST.json (was it published by an older charloom?); "
            "it can't be used to start from or compare with: promote or name another version"
        )
    return digest


def _text(report: dict[str, Any], path: str) -> str:
    """Returns the string at a dotted path of a report; empty if there is none."""
    return str(look_up(report, path) or "")


def _path_in(report: dict[str, Any], part: str) -> str:
    """Returns the version that a part of a report names, if it still exists."""
    path = _text(report, f"{part}.path")
    if path and not holds_saved_model(path):
        print(f"{path} is gone and will be ignored", flush=True)
        return ""
    return path


def _read_report(version: str) -> dict[str, Any]:
    path = os.path.join(version, "report.json")
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}); choose another champion") from None
    return report if isinstance(report, dict) else {}
