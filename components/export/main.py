"""The export stage: a model that passed the gate becomes a version in the registry.

A version holds saved_model.pb, variables/ and assets/ for a server; checkpoint/ and vocab.txt for
the next training and comparison; report.json and its pages, config.json and model_card.md for
people; requests.json, which was asked before publishing; and MANIFEST.json, written last.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from typing import Any

from components.export.card import model_card
from components.export.checking import Budget, check_in_fresh_process, record_requests
from components.export.manifest import read_manifest, write_manifest
from components.export.promoting import promote_if
from components.export.registry import (
    check_name,
    publish,
    read_champion,
    staging_folder,
    versions,
)
from model.errors import InputError, RejectedError
from model.export import export_model, held_out_texts
from model.loading import load_model
from model.published import save_published
from model.records import Dataset
from model.seen_records import save_version

REPORT_FILE = "report.json"
COPIED_FILES = ("report.html", "report.md")
"""Pages of the report, which it may lack."""
RECORDED_TEXTS = 3


def run(
    *,
    records: str,
    workdir: str,
    report: str,
    registry: str,
    name: str,
    budget: Budget | None = None,
    precision: str = "float32",
) -> str:
    """Exports the evaluated checkpoint, checks it, publishes it and makes it the champion.

    It becomes the champion only if the champion still is the one with which it was compared.
    A checkpoint that is published already is not published again.

    Args:
      records: folder that prepare made.
      workdir: folder that train made.
      report: folder that evaluate made, with a verdict of PASSED.
      registry: folder of all models; made if needed.
      name: the model's name in it.
      budget: what the model may take to answer a request.
      precision: of the served model's table and softmax, float32 or bfloat16.

    Returns:
      The version's folder.

    Raises:
      InputError: bad folders, or a report of another checkpoint.
      RejectedError: the gate said no; nothing is published.
      CharloomError: the exported model differs from its checkpoint, or is too slow or large;
        nothing is published.
    """
    check_name(name)
    content = _read_report(report)
    digest = content["checkpoint"]["digest"]
    published = find_published(registry, name, digest, run=content.get("run"))
    if published:
        print(f"{published} is published already{_how_to_promote(published)}", flush=True)
        return published
    staged = staging_folder(registry, name)
    try:
        checked = _fill(
            staged,
            records=records,
            workdir=workdir,
            report=report,
            content=content,
            precision=precision,
        )
        checked |= check_in_fresh_process(staged, budget or Budget())
        _write(staged, "model_card.md", model_card(content, name=name, checked=checked))
        dataset = content["dataset"]
        digests = {
            "checkpoint": digest,
            "dataset": dataset["digest"],
            "vocab": dataset["vocab_digest"],
        }
        if content.get("run"):
            digests["run"] = content["run"]
        write_manifest(staged, digests)
        version = publish(registry, name, staged=staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    print(
        f"published {version} (compared with its checkpoint on {checked['words']:,} words, "
        f"largest difference {checked['max_difference']:.1g} nats; "
        f"{checked['latency_ms']:.1f} ms a request, {checked['memory_mb']:,.0f} MB)",
        flush=True,
    )
    print(_promote(registry, name, version, content), flush=True)
    return version


def find_published(registry: str, name: str, digest: str, *, run: object = None) -> str | None:
    """Returns the folder of the newest version that was made of a checkpoint, or None.

    Args:
      registry: folder of all models.
      name: the model's name in it.
      digest: of the checkpoint.
      run: identity of a run; a version that it made before counts as well, although its
        checkpoint may differ in some bits.
    """
    for number in reversed(versions(registry, name)):
        folder = os.path.join(registry, name, str(number))
        if _digest_of(folder) == digest or (run and _digest_of(folder, "run") == run):
            return folder
    return None


def _how_to_promote(version: str) -> str:
    """Returns what to say of a version that is not the champion: it was rolled back, or never was."""
    model, number = os.path.split(version)
    champion = read_champion(*os.path.split(model))
    if champion == int(number):
        return ""
    return (
        f", and the champion is version {champion}; charloom registry promote "
        f"{shlex.quote(model)} {number} makes it the champion"
    )


def _digest_of(folder: str, name: str = "checkpoint") -> str | None:
    try:
        return str(read_manifest(folder)["digests"][name])
    except (InputError, KeyError, TypeError):
        return None


def _fill(
    staged: str,
    *,
    records: str,
    workdir: str,
    report: str,
    content: Mapping[str, Any],
    precision: str,
) -> dict[str, Any]:
    """Writes all files of a version but its card and manifest; returns what was compared."""
    with Dataset.open(records) as dataset:
        loaded = load_model(workdir, dataset)
        if loaded.checkpoint.digest != content["checkpoint"]["digest"]:
            raise InputError(
                f"{report} is of another checkpoint (step {content['checkpoint']['step']}) than "
                f"the best one of {workdir} (step {loaded.checkpoint.step}); "
                "run charloom evaluate again"
            )
        checked = export_model(loaded, dataset, staged, precision=precision)
        save_published(loaded, dataset, staged)
        save_version(staged, workdir, loaded.checkpoint.meta, dataset)
        record_requests(staged, held_out_texts(loaded, dataset, count=RECORDED_TEXTS))
    _write(staged, REPORT_FILE, json.dumps(content, indent=2) + "\n")
    _write(staged, "config.json", json.dumps(content["config"], indent=2) + "\n")
    for file_name in COPIED_FILES:
        if os.path.exists(os.path.join(report, file_name)):
            shutil.copyfile(os.path.join(report, file_name), os.path.join(staged, file_name))
    return checked


def _promote(registry: str, name: str, version: str, report: Mapping[str, Any]) -> str:
    """Makes a version the champion if it was compared with the present one; says which is."""
    number, model = int(os.path.basename(version)), os.path.join(registry, name)
    present = read_champion(registry, name)
    compared = report.get("champion")
    known = compared.get("checkpoint_digest") if isinstance(compared, Mapping) else None
    digest = None if present is None else _digest_of(os.path.join(model, str(present)))
    is_same = (present is None) if known is None else (digest == known)
    if is_same and promote_if(registry, name, number, champion=present):
        return f"champion of {model}: version {number}"
    kept = read_champion(registry, name)
    by_hand = f"or charloom registry promote {shlex.quote(model)} {number}"
    if kept is None:
        return (
            f"{model} has no champion, and this version was compared with one; run charloom "
            f"evaluate again without --champion, {by_hand}"
        )
    return (
        f"the champion of {model} stays version {kept}, with which this one was not compared; "
        f"run charloom evaluate --champion {shlex.quote(model)} again, {by_hand}"
    )


def _read_report(report: str) -> dict[str, Any]:
    path = os.path.join(report, REPORT_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
        status, reasons = content["verdict"]["status"], content["verdict"]["reasons"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} holds no verdict; run charloom evaluate") from None
    if status != "PASSED":
        raise RejectedError(f"the gate rejected this model: {'; '.join(map(str, reasons))}")
    return content


def _write(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)
