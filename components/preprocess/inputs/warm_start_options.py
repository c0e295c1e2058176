"""What a run begins with: random weights or those of a published model."""

from __future__ import annotations

import dataclasses

from model.errors import InputError

DEFAULT_SHARE = 0.5
"""Of the steps of a training, those that are trained after a warm start."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins with, and what it has to reach beside the champion."""

    warm_start: str = ""
    """`champion`, or the folder of a version or model, with whose weights training begins."""
    steps_share: float = DEFAULT_SHARE
    """With a warm start, the share of `train.steps` that are trained."""
    extend_vocab: bool = False
    """Add the text's most frequent words to those of the vocabulary that is given or begun with."""
    require_improvement: bool = False
    """Reject a model that is not significantly better than the champion."""

    def check(self, *, vocab: str, share_given: bool = False) -> None:
        """Raises InputError for values that make no sense, alone or together."""
        if not 0 < self.steps_share <= 1:
            raise InputError(f"steps_share is {self.steps_share}; it must be above 0 and at most 1")
        if share_given and not self.warm_start:
            raise InputError(
                "--steps-share shortens a training that begins with --warm-start; without one "
                "set train.steps"
            )
        if self.extend_vocab and not (self.warm_start or vocab):
            raise InputError(
                "--extend-vocab needs words to extend: give --warm-start or --vocab as well"
            )


COLD = Start()
"""Random weights, and words that the text gives."""
