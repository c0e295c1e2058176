"""What a run begins with and is compared with: its place in the line of champions.

A run is known by an identity, which report and manifest of what it published carry. It holds the
digests of what the run begins with and is compared with: the same text after another champion is
another run. Run again, it begins with what it began with before, and is compared with the same
version, although what it made has become the champion meanwhile; so it comes to the same model,
which is there already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from components.export.manifest import made_of
from components.export.registry import champion_folder, entry_folder, find_model, read_pointer
from model.errors import InputError

CHAMPION = "champion"
"""Stands for the folder of the registry's champion."""


class Beginning(NamedTuple):
    """Folders of versions, empty where there is none, and what follows from them."""

    champion: str
    """With which the run's model is compared."""
    base: str
    """With whose weights training begins."""
    run: str
    """Identity of the run."""
    reference: str
    """The best version so far, below which the run's model may not drift. It may be gone, which
    the gate then gives as its reason."""


Identify = Callable[[str, str], str]
"""Returns the identity of a run by the digests of the checkpoints that it begins with and is
compared with; empty where there is none."""


def find_beginning(registry: str, name: str, *, warm_start: str, identify: Identify) -> Beginning:
    """Looks up what a run begins with and is compared with, and which run it is.

    Args:
      registry: folder of all models.
      name: the model's name in it.
      warm_start: empty, `CHAMPION`, or the folder of a version or of a model.
      identify: gives the run's identity.

    Raises:
      InputError: a version is damaged or can't be found.
    """
    champion = champion_folder(registry, name) or ""
    follows = warm_start == CHAMPION or (
        bool(champion)
        and os.path.realpath(warm_start) == os.path.realpath(os.path.join(registry, name))
    )
    base = champion if follows else _find(warm_start)
    report = _read_report(champion) if champion else {}
    if report.get("run"):
        begun = _digest_in(report, "warm_start", "checkpoint") if follows else _digest_of(base)
        run = identify(begun, _digest_in(report, "champion", "checkpoint_digest"))
        if run == report["run"]:
            print(f"{champion} was made by this very run", flush=True)
            base = _path_in(report, "warm_start") if follows else base
            reference = _named_in(report, "reference")  # if it is gone, the gate says so
            return Beginning(_path_in(report, "champion"), base, run, reference)
    run = identify(_digest_of(base), _digest_of(champion))
    return Beginning(champion, base, run, find_reference(os.path.join(registry, name)))


def find_reference(model: str) -> str:
    """Returns the folder of a model's best version so far, whether it is still there or not.

    Args:
      model: a model's folder, `<registry>/<name>`; for any other the result is empty, as it is
        where no reference was set.

    Raises:
      InputError: champion.json is damaged, or the folder holds another version by now.
    """
    pointer = read_pointer(model)
    if pointer is None or pointer.reference is None:
        return ""
    folder = os.path.join(model, str(pointer.reference.version))
    if not os.path.isdir(folder):
        return folder
    return entry_folder(model, pointer.reference, is_reference=True)


def _find(warm_start: str) -> str:
    return os.path.abspath(find_model(warm_start)) if warm_start else ""


def _digest_of(version: str) -> str:
    """Returns the digest of the checkpoint that a version was made of; of none, an empty one."""
    if not version:
        return ""
    digest = made_of(version)
    if digest is None:
        raise InputError(
            f"{version} has no whole MANIFEST.json (was it published by an older charloom?); "
            "no run can begin with it or be compared with it: promote or name another version"
        )
    return digest


def _digest_in(report: dict[str, Any], part: str, field: str) -> str:
    """Returns a digest in a part of a report; an empty one if there is none."""
    found = report.get(part)
    return str(found.get(field) or "") if isinstance(found, dict) else ""


def _named_in(report: dict[str, Any], part: str) -> str:
    """Returns the version that a part of a report names."""
    found = report.get(part)
    return str(found.get("path") or "") if isinstance(found, dict) else ""


def _path_in(report: dict[str, Any], part: str) -> str:
    """Returns the version that a part of a report names, if it is still there."""
    path = _named_in(report, part)
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
