"""What a run begins with and is compared with: its place in the line of champions.

A run is known by an identity, which report and manifest of what it published carry. Run again,
it begins with what it began with before, and is compared with the same version, although it has
become the champion itself meanwhile; so it comes to the same model, which is there already.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from components.export.registry import CHAMPION_FILE, champion_folder, find_model
from model.errors import InputError

CHAMPION = "champion"
"""Stands for the folder of the registry's champion."""


class Beginning(NamedTuple):
    """Folders of versions; empty where there is none."""

    champion: str
    """With which the run's model is compared."""
    base: str
    """With whose weights training begins."""
    reference: str = ""
    """The best version so far, below which the run's model may not drift. It may be gone, which
    the gate then gives as its reason."""


def find_beginning(registry: str, name: str, *, warm_start: str, identity: str) -> Beginning:
    """Looks up what a run begins with and is compared with.

    Args:
      registry: folder of all models.
      name: the model's name in it.
      warm_start: empty, `CHAMPION`, or the folder of a version or of a model.
      identity: of the run.

    Raises:
      InputError: a version is damaged or can't be found.
    """
    champion = champion_folder(registry, name) or ""
    base = champion if warm_start == CHAMPION else _find(warm_start)
    report = _read_report(champion) if champion else {}
    if not champion or report.get("run") != identity:
        return Beginning(champion, base, find_reference(os.path.join(registry, name)))
    print(f"{champion} was made by this very run", flush=True)
    before = Beginning(_path_in(report, "champion"), _path_in(report, "warm_start"))
    if warm_start == CHAMPION:
        base = before.base
    return Beginning(before.champion, base, _path_in(report, "reference"))


def find_reference(model: str) -> str:
    """Returns the folder of a model's best version so far, whether it is still there or not.

    Args:
      model: a model's folder, `<registry>/<name>`; for any other the result is empty, as it is
        where no reference was set.

    Raises:
      InputError: champion.json is damaged.
    """
    path = os.path.join(model, CHAMPION_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            reference = json.load(file).get("reference")
        return os.path.join(model, str(int(reference["version"]))) if reference else ""
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is damaged; charloom registry promote {model} VERSION writes it again"
        ) from None


def _find(warm_start: str) -> str:
    return os.path.abspath(find_model(warm_start)) if warm_start else ""


def _path_in(report: dict[str, Any], part: str) -> str:
    """Returns the version that a part of a report names, if it is still there."""
    found = report.get(part)
    path = str(found.get("path") or "") if isinstance(found, dict) else ""
    if path and not os.path.exists(os.path.join(path, "saved_model.pb")):
        print(f"{path} is gone, and left out", flush=True)
        return ""
    return path


def _read_report(version: str) -> dict[str, Any]:
    path = os.path.join(version, "report.json")
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read ({error}); take another champion") from None
    return report if isinstance(report, dict) else {}
