"""What new records are compared to, and how far their words may be from it.

No TensorFlow here: a wrong limit or folder is told before that is loaded. `drift` measures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING

from model.checks import check_range
from model.errors import InputError, RejectedError
from model.files import COMPLETED_FILE

if TYPE_CHECKING:
    from components.preprocess.analysis.drift import Drift
    from model.config import DataConfig

NO_LIMIT = 1.0
"""The highest that a figure can be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A folder to compare to, and limits of `Drift`; flags and pipeline name them the same.

    Raises:
      InputError: a limit is not between 0 and 1, or has no effect.
    """

    compare_to: str = ""
    """Folder of the other records; if empty, nothing is compared."""
    max_new_word_rate: float = NO_LIMIT
    """Limit of the share of training words that are new."""
    max_divergence: float = NO_LIMIT
    """Limit of the Jensen-Shannon divergence of the unigrams, in bits."""

    def __post_init__(self) -> None:
        limits = {
            "--max-new-word-rate": self.max_new_word_rate,
            "--max-divergence": self.max_divergence,
        }
        for flag, limit in limits.items():
            check_range(flag, limit, 0.0, 1.0)
            if limit != NO_LIMIT and not self.compare_to:
                raise InputError(
                    f"{flag} has no effect without --compare-to; name the records to compare to"
                )

    def read_digest(self) -> str:
        """Returns the digest of the other records, which says that they are whole.

        Raises:
          InputError: there are none, or not all of them.
        """
        if not os.path.isdir(self.compare_to):
            raise InputError(
                f"--compare-to {self.compare_to} is no folder of records; name one that "
                "charloom prepare made"
            )
        try:
            with open(os.path.join(self.compare_to, COMPLETED_FILE), encoding="utf-8") as file:
                return file.readline(1000).strip()
        except (OSError, UnicodeDecodeError):
            raise InputError(
                f"--compare-to {self.compare_to} is not complete (no {COMPLETED_FILE} that can be "
                "read); name a folder that charloom prepare made"
            ) from None

    def extend_fingerprint(self, fingerprint: str) -> str:
        """Returns a fingerprint of the input that changes with the other records, too.

        Raises:
          InputError: there are none, or not all of them.
        """
        if not self.compare_to:
            return fingerprint
        return hashlib.sha256(f"{fingerprint} {self.read_digest()}".encode()).hexdigest()

    def check_other(self, config: DataConfig) -> None:
        """Finds out before the long work whether records made by `config` can be compared.

        Raises:
          InputError: they can't.
        """
        if self.compare_to:
            from components.preprocess.analysis.drift import check_other

            check_other(self.compare_to, config)

    def apply(self, records: str) -> Drift | None:
        """Compares a folder of records, prints the figures, and fails the run above a limit.

        The folder stays as it is: people want to look at what was refused.

        Returns:
          The figures; None if nothing is to be compared.

        Raises:
          RejectedError: a figure is above its limit.
          InputError: one of the folders can't be used.
        """
        if not self.compare_to:
            return None
        from components.preprocess.analysis.drift import compare

        try:
            drift = compare(records, self.compare_to)
        except InputError as error:
            raise InputError(f"{records} can't be compared: {error}") from None
        lines = [f"{records} compared to {self.compare_to}:", *drift.describe()]
        print("\n".join(lines), flush=True)
        self.check(drift, records)
        return drift

    def check(self, drift: Drift, records: str) -> None:
        """Fails the run if the drift of some records is above a limit.

        Raises:
          RejectedError: a figure is above its limit.
        """
        figures = (
            ("new-word rate", drift.new_word_rate, self.max_new_word_rate, "--max-new-word-rate"),
            (
                "Jensen-Shannon divergence",
                drift.divergence,
                self.max_divergence,
                "--max-divergence",
            ),
        )
        # Not `figure > limit`: what can't be compared is above.
        if all(figure <= limit for _, figure, limit, _ in figures):
            return
        said = ", ".join(_compared(*figure) for figure in figures)
        raise RejectedError(
            f"the words of {records} have drifted too far from {self.compare_to}: {said}; the "
            "records are whole and stay: look at their new and most divergent words, then leave out "
            "text that does not belong, or raise the limit and run it again"
        )


NOTHING = Comparison()
"""Nothing is compared."""


def _compared(name: str, figure: float, limit: float, flag: str) -> str:
    """Returns figure and limit, with as many digits as it takes to tell them apart."""
    if figure <= limit == NO_LIMIT:
        return f"{name} {figure:.5f} (no limit)"
    digits = next((n for n in range(5, 18) if f"{figure:.{n}f}" != f"{limit:.{n}f}"), 5)
    sign = "at most" if figure <= limit else "above"
    return f"{name} {figure:.{digits}f} ({sign} {flag} {limit:.{digits}f})"
