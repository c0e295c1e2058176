"""Compares new records with others, and applies the drift limits.

No TensorFlow here: a wrong limit or folder is reported before it is loaded. `drift` measures.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from components.run_settings import NO_LIMIT, RunSettings
from model.errors import InputError, RejectedError
from model.files import COMPLETED_FILE

if TYPE_CHECKING:
    from components.preprocess.analysis.drift import Drift


def read_digest(compare_to: str) -> str:
    """Returns the digest of the other records, which shows that they are complete.

    Raises:
      InputError: they are missing or incomplete.
    """
    if not os.path.isdir(compare_to):
        raise InputError(
            f"run.compare_to {compare_to} is not a folder of records; name one that charloom "
            "prepare made"
        )
    try:
        with open(os.path.join(compare_to, COMPLETED_FILE), encoding="utf-8") as file:
            return file.readline(1000).strip()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"run.compare_to {compare_to} is not complete (no {COMPLETED_FILE} that can be read); "
            "name a folder that charloom prepare made"
        ) from None


def extend_fingerprint(fingerprint: str, compare_to: str) -> str:
    """Returns a fingerprint of the input that also depends on the other records.

    Raises:
      InputError: they are missing or incomplete.
    """
    if not compare_to:
        return fingerprint
    return hashlib.sha256(f"{fingerprint} {read_digest(compare_to)}".encode()).hexdigest()


def apply_limits(run: RunSettings, records: str) -> Drift | None:
    """Compares a records folder, prints the figures, and fails the run above a limit.

    The folder is kept, so that rejected records can be inspected.

    Returns:
      The figures; None if there is nothing to compare with.

    Raises:
      RejectedError: a figure is above its limit.
      InputError: one of the folders can't be used.
    """
    if not run.compare_to:
        return None
    from components.preprocess.analysis.drift import compare

    try:
        drift = compare(records, run.compare_to)
    except InputError as error:
        raise InputError(f"{records} can't be compared: {error}") from None
    lines = [f"{records} compared to {run.compare_to}:", *drift.describe()]
    print("\n".join(lines), flush=True)
    check_drift(drift, run, records)
    return drift


def check_drift(drift: Drift, run: RunSettings, records: str) -> None:
    """Fails the run if the drift of some records is above a limit.

    Raises:
      RejectedError: a figure is above its limit.
    """
    figures = (
        ("new-word rate", drift.new_word_rate, run.max_new_word_rate, "max_new_word_rate"),
        ("Jensen-Shannon divergence", drift.divergence, run.max_divergence, "max_divergence"),
    )
    # Not `figure > limit`, so that NaN exceeds any limit.
    if all(figure <= limit for _, figure, limit, _ in figures):
        return
    said = ", ".join(_compared(*figure) for figure in figures)
    raise RejectedError(
        f"the words of {records} have drifted too far from {run.compare_to}: {said}; the "
        "records are complete and kept: look at their new and most divergent words, then leave out "
        "text that does not belong, or raise the limit and run it again"
    )


def _compared(name: str, figure: float, limit: float, setting: str) -> str:
    """Formats figure and limit, with as many digits as it takes to tell them apart."""
    if figure <= limit == NO_LIMIT:
        return f"{name} {figure:.5f} (no limit)"
    digits = next((n for n in range(5, 18) if f"{figure:.{n}f}" != f"{limit:.{n}f}"), 5)
    sign = "at most" if figure <= limit else "above"
    return f"{name} {figure:.{digits}f} ({sign} run.{setting} {limit:.{digits}f})"
