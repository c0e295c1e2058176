"""The end of an export: turns a filled folder into a version, and possibly the champion.

Each step leaves the registry so that the same export, repeated after it was killed, resumes: an
existing version is not published again, and one whose promotion is still undecided is promoted
then. No TensorFlow here.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Mapping
from typing import Any

from components.evaluate.report_fields import look_up
from components.export.manifest import EXPORT, MANIFEST_FILE, code_version, made_of, verify
from components.export.promoting import check_whole, promote_if
from components.export.registry import RegisteredModel
from model.files import read_json, version_number

COMPARED = "champion.checkpoint_digest"
"""Path in a report of the digest of the compared champion's checkpoint."""


def describe_export(precision: str) -> dict[str, str]:
    """Returns the settings that, with the checkpoint, determine a version's content."""
    return {"precision": precision, "code": code_version()}


def describe_digests(report: Mapping[str, Any]) -> dict[str, str]:
    """Returns the digests of a version's ingredients: checkpoint, records, vocabulary and run.

    Args:
      report: the report on its checkpoint.
    """
    dataset = report["dataset"]
    digests = {
        "checkpoint": report["checkpoint"]["digest"],
        "dataset": dataset["digest"],
        "vocab": dataset["vocab_digest"],
    }
    if report.get("run"):
        digests["run"] = report["run"]
    return digests


def find_published(
    model: RegisteredModel, *, digests: Mapping[str, str], export: Mapping[str, str]
) -> str | None:
    """Returns the folder of the newest whole version with the same content, or None.

    Args:
      model: the model.
      digests: `checkpoint` and, if a run made it, `run`; a version made by the same run also
        counts, although its checkpoint may differ in some bits.
      export: result of `describe_export`.
    """
    for number in reversed(model.versions()):
        folder = model.version_folder(number)
        if read_json(os.path.join(folder, MANIFEST_FILE)).get(EXPORT) != export:
            continue
        run = digests.get("run")
        same = made_of(folder) == digests["checkpoint"] or (run and made_of(folder, "run") == run)
        if same and not verify(folder):
            return folder
    return None


def publish_once(
    model: RegisteredModel, staged: str, *, digests: Mapping[str, str], export: Mapping[str, str]
) -> str:
    """Publishes a filled folder, unless another export has published the same meanwhile.

    Returns:
      The version's folder; if `staged` still exists, the other export's version.
    """
    find = functools.partial(find_published, model, digests=digests, export=export)
    return model.publish(staged, find=find)


def finish(model: RegisteredModel, version: str, *, report: Mapping[str, Any]) -> str:
    """Makes a published version the champion if its promotion is still undecided.

    It is undecided if its publisher did not get that far, or if `report` compares it with another
    champion than its own report does. Otherwise, somebody may have rolled it back.

    Args:
      model: the model.
      version: the version's folder.
      report: the report on it, which passed the gate.

    Returns:
      One line that names the current champion.

    Raises:
      InputError: champion.json is damaged, or the version is.
    """
    number = version_number(version)
    assert number is not None, version
    own = read_json(os.path.join(version, "report.json"))
    if number in model.read_numbers().unfinished or look_up(own, COMPARED) != look_up(
        report, COMPARED
    ):
        return _promote(model, number, report)
    champion = model.champion()
    present = champion.version if champion else None
    if present == number:
        return f"champion of {model.folder}: version {number}"
    return (
        f"the champion of {model.folder} is version {present}; charloom registry promote "
        f"{shlex.quote(model.folder)} {number} makes this one the champion"
    )


def _promote(model: RegisteredModel, number: int, report: Mapping[str, Any]) -> str:
    """Promotes a version if it was compared with the current champion; reports the champion."""
    champion, compared = model.champion(), look_up(report, COMPARED)
    present = champion.version if champion else None
    digest = None if present is None else made_of(model.version_folder(present))
    check_whole(model, number)
    same = (present is None) if compared is None else (digest == compared)
    may_be = same or present == number  # another process has just promoted it
    if may_be and promote_if(model, number, champion=present, report=report):
        return f"champion of {model.folder}: version {number}"
    with model.locked():
        model.settle(number)
    kept, quoted = model.champion(), shlex.quote(model.folder)
    by_hand = f"or charloom registry promote {quoted} {number}"
    if kept is None:
        return (
            f"{model.folder} has no champion, and this version was compared with one; run charloom "
            f"evaluate again without --champion, {by_hand}"
        )
    return (
        f"the champion of {model.folder} stays version {kept.version}, with which this one was not "
        f"compared; run charloom evaluate --champion {quoted} and charloom export again, {by_hand}"
    )
