"""The evaluate stage: scores the checkpoint, applies the gate, writes the report.

A report is a folder of `report.json`, `report.html`, `report.md` and, written last, `COMPLETED`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from components.evaluate.gate import decide
from components.evaluate.markdown import render_markdown
from components.evaluate.page import render_page
from components.evaluate.report import Report
from components.evaluate.report_fields import look_up
from components.figures import format_figure
from model.config import Config, to_dict
from model.distributed.devices import prepare_devices
from model.errors import InputError
from model.evaluation.evaluate import evaluate_checkpoint
from model.files import (
    COMPLETED_FILE,
    is_fixed,
    list_entries,
    publish_folder,
    temporary_folder,
)

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
MARKDOWN_FILE = "report.md"
MANY_UNKNOWN = 0.1
"""Share of unknown test words above which a warning is shown."""
_OUR_FILES = {REPORT_FILE, PAGE_FILE, MARKDOWN_FILE, COMPLETED_FILE}


def run(
    *,
    records: str,
    workdir: str,
    report: str,
    config: Config,
    champion: str = "",
    reference: str = "",
    identity: str = "",
) -> dict[str, Any]:
    """Evaluates the best checkpoint and writes a report with the gate's verdict.

    A rejection is not an error: the caller checks the verdict.

    Args:
      records: folder written by prepare.
      workdir: folder written by train.
      report: folder to write: new, empty, or with an earlier report, which is replaced.
      config: its `gate` section holds the limits.
      champion: folder of the version to compare the model with; empty for none.
      reference: folder of the best version so far, which limits the loss over many versions; empty
        for none.
      identity: the pipeline run's identity, if this is part of one.

    Returns:
      The content of `report.json`.

    Raises:
      InputError: a folder can't be read or written, or `report` holds something else.
    """
    check_folder(report)  # before an evaluation of several minutes
    prepare_devices()
    measured = evaluate_checkpoint(
        records=records, workdir=workdir, champion=champion, reference=reference
    )
    result = publish({**judge(measured, config), "run": identity or None}, report)
    print("\n".join(summarise(result, report)), flush=True)
    return result


def judge(measured: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Returns a report with the gate's verdict and the limits applied."""
    verdict = decide(Report.from_dict(measured), limits=config.gate)
    return {**measured, "gate": to_dict(config.gate), "verdict": verdict.to_dict()}


def publish(report: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Writes `report.json` and its two readable forms into `folder`, atomically.

    Args:
      report: a report with its verdict.
      folder: new, empty, or with an earlier report, which is replaced.

    Returns:
      The report as written: non-finite numbers become null.

    Raises:
      InputError: `folder` can't be written or holds something else.
    """
    check_folder(folder)
    cleaned: dict[str, Any] = _clean(report)
    texts = {
        REPORT_FILE: json.dumps(cleaned, indent=2, allow_nan=False) + "\n",
        PAGE_FILE: render_page(cleaned),
        MARKDOWN_FILE: render_markdown(cleaned),
    }
    target = os.path.realpath(folder)
    try:
        with temporary_folder(target) as temporary:
            for name, text in texts.items():
                with open(os.path.join(temporary, name), "w", encoding="utf-8") as file:
                    file.write(text)
            publish_folder(temporary, target, marker="", replace=True)
    except OSError as error:
        raise _not_writable(folder, error) from None
    return cleaned


def check_folder(folder: str) -> None:
    """Checks that a report can be written to `folder`; creates its parent folders.

    Raises:
      InputError: it can't be written, or it holds something other than a report.
    """
    target = os.path.realpath(folder)
    parent = os.path.dirname(target)
    try:
        os.makedirs(parent, exist_ok=True)
        found = set(list_entries(target)) if os.path.lexists(target) else set()
        place = target if is_fixed(target) else parent
    except OSError as error:
        raise _not_writable(folder, error) from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{place} is not writable; choose another folder for the report")
    # A registry version has a report.json too, next to a model that must not be removed.
    if found and (REPORT_FILE not in found or not found <= _OUR_FILES):
        other = sorted(found - _OUR_FILES or found)[0]
        raise InputError(
            f"{folder} already holds something else ({other}); choose another folder for the report"
        )


def summarise(report: Mapping[str, Any], folder: str) -> list[str]:
    """Returns a few lines for people: the figures, the report's location, the verdict."""
    words = look_up(report, "splits.test.words")
    return [
        f"test perplexity {_figure(report, 'splits.test.perplexity')}"
        + (f" on {words:,} words" if type(words) is int else "")
        + f", unigram baseline {_figure(report, 'baseline.unigram.perplexity')}",
        *_tell_left_out(report),
        *_warn_of_unknown(report),
        f"report: {os.path.join(folder, PAGE_FILE)}",
        f"verdict: {report['verdict']['status']}",
        *(f"  {reason}" for reason in report["verdict"]["reasons"]),
    ]


def _tell_left_out(report: Mapping[str, Any]) -> list[str]:
    records = look_up(report, "splits.test.left_out.records")
    words = look_up(report, "splits.test.left_out.words")
    share = look_up(report, "splits.test.left_out.share")
    if type(records) is not int or type(words) is not int or not records:
        return []
    part = f" ({share:.1%} of the split)" if type(share) is float else ""
    return [
        f"left out: {records:,} test records of {words:,} words{part} that a model has seen in "
        "training"
    ]


def _warn_of_unknown(report: Mapping[str, Any]) -> list[str]:
    unknown = look_up(report, "splits.test.unknown_words")
    words = look_up(report, "splits.test.words")
    if type(unknown) is not int or type(words) is not int or not words:
        return []
    if unknown <= MANY_UNKNOWN * words:
        return []
    return [
        f"warning: {unknown / words:.0%} of the test words are unknown, so the perplexity means "
        "little; raise data.vocab_size, lower data.min_count or provide more text"
    ]


def _figure(report: Mapping[str, Any], path: str) -> str:
    value = look_up(report, path)
    return format_figure(value) if type(value) in (int, float) else "not available"


def _clean(value: Any) -> Any:
    """Returns plain JSON values, with null for non-finite numbers."""
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _not_writable(folder: str, error: OSError) -> InputError:
    return InputError(
        f"{folder} can't be written ({error.strerror or error}); choose another folder for the report"
    )
