"""The export stage: publishes a model that passed the gate as a version in the registry.

A version holds saved_model.pb, variables/ and assets/ for serving; checkpoint/ and vocab.txt for
the next training and comparison; report.json with its pages, config.json and model_card.md for
people; requests.json, checked before publishing; and MANIFEST.json, written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from components.export.checking import Budget, check_in_fresh_process, record_requests
from components.export.manifest import write_manifest
from components.export.model_card import model_card
from components.export.publishing import (
    describe_digests,
    describe_export,
    find_published,
    finish,
    publish_once,
)
from components.export.registry import RegisteredModel, check_name
from model.checkpointing.seen_records import save_version
from model.checkpointing.trained import load_model, save_published
from model.data.records import Dataset
from model.distributed.devices import prepare_devices
from model.errors import InputError, RejectedError
from model.files import removed_at_end
from model.serving.export import allowed, compare, export_model, held_out_texts

REPORT_FILE = "report.json"
COPIED_FILES = ("report.html", "report.md")
"""Pages of the report; they may be missing."""
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

    Promotes it only if the champion is still the one it was compared with. A checkpoint already
    published with the same settings is not published again; instead, the remaining steps of a
    killed export are completed.

    Args:
      records: folder written by prepare.
      workdir: folder written by train.
      report: folder written by evaluate, with the verdict PASSED.
      registry: folder of all models; created if needed.
      name: the model's name in it.
      budget: limits for answering a request; None: the default for a new version, and no new check
        of an existing version.
      precision: of the served model's table and softmax, float32 or bfloat16.

    Returns:
      The version's folder.

    Raises:
      InputError: bad folders, or a report on another checkpoint.
      RejectedError: the gate rejected the model; nothing is published.
      CharloomError: the exported model differs from its checkpoint, or exceeds the budget; nothing
        is published, or an existing version stays as it is.
    """
    check_name(name)
    model, content = RegisteredModel(registry, name), _read_report(report)
    digests, export = describe_digests(content), describe_export(precision)
    published = find_published(model, digests=digests, export=export)
    if published:
        if budget is not None:
            check_in_fresh_process(published, budget, otherwise=f"{published} stays as it is")
        return _finish(model, published, content)
    with removed_at_end(model.stage()) as staged:
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
        write_manifest(staged, digests, export=export)
        version = publish_once(model, staged, digests=digests, export=export)
        is_new = not os.path.exists(staged)
    if not is_new:
        return _finish(model, version, content)
    print(
        f"published {version} (compared with its checkpoint on {checked['words']:,} words, "
        f"largest difference {checked['max_difference']:.1g} nats; "
        f"{checked['latency_ms']:.1f} ms a request, {checked['memory_mb']:,.0f} MB)",
        flush=True,
    )
    print(finish(model, version, report=content), flush=True)
    return version


def _finish(model: RegisteredModel, published: str, content: Mapping[str, Any]) -> str:
    """Completes what an earlier or concurrent export of the same model started."""
    said = finish(model, published, report=content)
    print(f"{published} is already published; {said}", flush=True)
    return published


def _fill(
    staged: str,
    *,
    records: str,
    workdir: str,
    report: str,
    content: Mapping[str, Any],
    precision: str,
) -> dict[str, Any]:
    """Writes all files of a version except its card and manifest; returns the check results."""
    prepare_devices()
    with Dataset.open(records) as dataset:
        loaded = load_model(workdir, dataset)
        if loaded.checkpoint.digest != content["checkpoint"]["digest"]:
            raise InputError(
                f"{report} is about another checkpoint (step {content['checkpoint']['step']}) than "
                f"the best one of {workdir} (step {loaded.checkpoint.step}); "
                "run charloom evaluate again"
            )
        exported = export_model(loaded, dataset, staged, precision=precision)
        checked = compare(exported, loaded=loaded, dataset=dataset, tolerance=allowed(precision))
        save_published(loaded, dataset, staged)
        save_version(staged, workdir, loaded.checkpoint.meta, dataset)
        record_requests(exported, staged, held_out_texts(loaded, dataset, count=RECORDED_TEXTS))
    _write(staged, REPORT_FILE, json.dumps(content, indent=2) + "\n")
    _write(staged, "config.json", json.dumps(content["config"], indent=2) + "\n")
    for file_name in COPIED_FILES:
        if os.path.exists(os.path.join(report, file_name)):
            shutil.copyfile(os.path.join(report, file_name), os.path.join(staged, file_name))
    return checked


def _read_report(report: str) -> dict[str, Any]:
    path = os.path.join(report, REPORT_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
        status, reasons = content["verdict"]["status"], content["verdict"]["reasons"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} has no verdict; run charloom evaluate") from None
    if status != "PASSED":
        raise RejectedError(f"the gate rejected this model: {'; '.join(map(str, reasons))}")
    return content


def _write(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        file.write(text)
