"""The export stage: a model that passed the gate becomes a version in the registry."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

from components.export.registry import check_name, publish, staging_folder, versions
from model.errors import InputError, RejectedError
from model.export import export_checkpoint

REPORT_FILE = "report.json"


def run(
    *, records: str, workdir: str, report: str, registry: str, name: str, reuse: bool = False
) -> str:
    """Exports the evaluated checkpoint, checks it and publishes it.

    Args:
      records: folder that prepare made.
      workdir: folder that train made.
      report: folder that evaluate made, with a verdict of PASSED.
      registry: folder of all models; made if needed.
      name: the model's name in it.
      reuse: whether to return the version that an earlier attempt has published of the same
        report, instead of a second one.

    Returns:
      The new version's folder.

    Raises:
      InputError: bad folders, or a report of another checkpoint.
      RejectedError: the gate said no; nothing is published.
      CharloomError: the exported model differs from its checkpoint; nothing is published.
    """
    check_name(name)
    content = _read_report(report)
    for number in versions(registry, name) if reuse else ():
        folder = os.path.join(registry, name, str(number))
        if _holds(folder, content):
            print(f"{folder} is published already", flush=True)
            return folder
    staged = staging_folder(registry, name)
    try:
        checked = export_checkpoint(records=records, workdir=workdir, output=staged)
        if checked["digest"] != content["checkpoint"]["digest"]:
            raise InputError(
                f"{report} is of another checkpoint (step {content['checkpoint']['step']}) than "
                f"the best one of {workdir} (step {checked['step']}); run charloom evaluate again"
            )
        _write(staged, REPORT_FILE, json.dumps(content, indent=2) + "\n")
        _write(staged, "config.json", json.dumps(content["config"], indent=2) + "\n")
        _write(staged, "model_card.md", model_card(content, name=name, checked=checked))
        version = publish(registry, name, staged=staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    print(
        f"published {version} (compared with its checkpoint on {checked['words']:,} words, "
        f"largest difference {checked['max_difference']:.1g} nats)",
        flush=True,
    )
    return version


def _holds(version: str, report: Mapping[str, Any]) -> bool:
    """Whether a version was published of this very report."""
    try:
        with open(os.path.join(version, REPORT_FILE), encoding="utf-8") as file:
            return bool(json.load(file) == report)
    except (OSError, ValueError):
        return False


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


def model_card(report: Mapping[str, Any], *, name: str, checked: Mapping[str, Any]) -> str:
    """Returns what a person should know before using the model, as Markdown."""
    test, unigram = report["splits"]["test"], report["baseline"]["unigram"]
    config, dataset = report["config"], report["dataset"]
    reasons = "\n".join(f"- {reason}" for reason in report["verdict"]["reasons"])
    return f"""# {name}

A language model that reads words and their characters ({config["model"]["inputs"]} inputs, \
char-CNN {config["model"]["char_cnn"]}), made by charloom.

| | |
|---|---|
| test perplexity | {test["perplexity"]:.2f} over {test["words"]:,} words |
| unigram baseline on the same words | {unigram["perplexity"]:.2f} |
| unknown words in the test | {test["unknown_words"]:,} |
| parameters | {report["parameters"]:,} |
| vocabulary | {dataset["vocab_size"]:,} words |
| training words | {dataset["train_words"]:,} |
| checkpoint | step {report["checkpoint"]["step"]:,}, SHA-256 {report["checkpoint"]["digest"]} |
| records | SHA-256 {dataset["digest"]} |
| check before publishing | {checked["words"]:,} held-out words, largest difference to the \
checkpoint {checked["max_difference"]:.2g} nats |

## Verdict: {report["verdict"]["status"]}
{reasons}

## Use
Signatures `score`, `next_word`, `embed` on raw strings; needs `tensorflow` and \
`tensorflow_text` only. Words outside the vocabulary are read by their characters and \
predicted as `<unk>`. It says what its training text made likely, which is not what is true.
"""
