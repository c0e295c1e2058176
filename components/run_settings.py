"""A run's settings beyond its configuration: start, words, drift limits, restarts.

The only definition of each: flags, the pipeline's parameter `settings` and the table in
docs/parameters.md are generated from the fields of `RunSettings`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated

from components.component_runtime import MAX_RESTARTS
from model.config import (
    Config,
    field_names,
    from_dict,
    from_json,
    with_overrides,
)
from model.errors import InputError
from model.field_limits import Range, check_fields
from model.presets import get_preset

DEFAULT_PRESET = "demo"

NO_LIMIT = 1.0
"""The maximum value of a drift measure."""

PREPARING = (
    "vocab",
    "extend_vocab",
    "source_root",
    "compare_to",
    "max_new_word_rate",
    "max_divergence",
    "leak_check_records",
)
"""The settings on which records, or their acceptance, depend."""

TRAINING = ("max_restarts",)
"""The settings that training depends on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of one run; omitted ones have their defaults.

    Raises:
      InputError: a value is out of range, or has no effect without another.
    """

    warm_start: str = ""
    """Start from the weights and words of a published version: `champion`, or the folder of a
    version or model. Empty, or no champion yet: random weights."""
    steps_share: float = 0.5
    """Share of `train.steps` to train after a warm start, above 0 and at most 1."""
    vocab: str = ""
    """File of vocabulary words, one per line, instead of choosing them from the text; then
    `data.vocab_size` and `data.min_count` have no effect."""
    extend_vocab: bool = False
    """Add the text's most frequent words to those of the warm start or of `vocab`, up to
    `data.vocab_size` in total."""
    source_root: str = ""
    """Folder or address prefix below which file names start; names determine the splits. Empty: the
    folder before the first wildcard or date of a pattern, or before /./ in it."""
    compare_to: str = ""
    """Folder of other records, for instance of an earlier run, to measure vocabulary drift against.
    Empty: no comparison."""
    max_new_word_rate: Annotated[float, Range(0.0, NO_LIMIT)] = NO_LIMIT
    """Maximum share of training words that are new relative to `compare_to`, from 0 to 1; above it
    the run ends (exit code 3). 1: no limit."""
    max_divergence: Annotated[float, Range(0.0, NO_LIMIT)] = NO_LIMIT
    """Maximum Jensen-Shannon divergence of the words from those of `compare_to`, in bits, from 0 to
    1; above it the run ends (exit code 3). 1: no limit."""
    leak_check_records: Annotated[int, Range(0, 1 << 40)] = 100_000
    """Maximum number of validation records, and of test records, that are compared with the training
    text to find near-duplicates, evenly spaced if there are more. 0: no check."""
    max_restarts: Annotated[int, Range(0, 1 << 20)] = MAX_RESTARTS
    """Maximum number of restarts of all workers after one was lost. A worker that is asked to stop
    does not count, except with 0: never restart."""

    def __post_init__(self) -> None:
        check_fields("run", self)
        if not 0 < self.steps_share <= 1:
            raise InputError(
                f"run.steps_share is {self.steps_share}; it must be above 0 and at most 1"
            )
        if self.steps_share != RunSettings.steps_share and not self.warm_start:
            raise InputError(
                "run.steps_share has no effect without run.warm_start; set train.steps instead"
            )
        if self.extend_vocab and not (self.warm_start or self.vocab):
            raise InputError(
                "run.extend_vocab needs words to extend; also set run.warm_start or run.vocab"
            )
        for name in ("max_new_word_rate", "max_divergence"):
            if getattr(self, name) != NO_LIMIT and not self.compare_to:
                raise InputError(
                    f"run.{name} has no effect without run.compare_to; name the records to compare with"
                )

    def to_json(self, names: Sequence[str]) -> str:
        """Returns the settings called `names` as JSON, omitting defaults."""
        return json.dumps({name: value for name, value in self._given().items() if name in names})

    def to_settings(self) -> list[str]:
        """Returns settings for `read_run`, omitting defaults."""
        given = self._given().items()
        return [
            f"run.{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in given
        ]

    def _given(self) -> dict[str, object]:
        fields = {one.name: one.default for one in dataclasses.fields(self)}
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value != fields[name]}

    @classmethod
    def from_json(cls, text: str) -> RunSettings:
        """Parses the output of `to_json`."""
        settings: RunSettings = from_dict(cls, json.loads(text), source="run", path="run.")
        return settings


DEFAULTS = RunSettings()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run(Config):
    """Everything that a setting can name."""

    run: RunSettings = DEFAULTS


def choose_config(preset: str) -> Config:
    """Returns the configuration of a named preset, or parses one given as JSON.

    Raises:
      InputError: there is no such preset, or the JSON is not a configuration.
    """
    text = preset.strip()
    if text.startswith("{"):
        return from_json(text, source="the configuration in preset")
    return get_preset(text or DEFAULT_PRESET)


def setting_names() -> list[str]:
    """Returns everything that a setting can name, as `section.field`."""
    return field_names(_Run)


def read_run(
    config: Config, settings: Sequence[str], *, source: str = "--set"
) -> tuple[Config, RunSettings]:
    """Applies settings to a configuration and a run's defaults.

    Args:
      config: the configuration to start from.
      settings: `section.field=value` strings, as for `model.config.with_overrides`; the section
        `run` is `RunSettings`.
      source: where the settings come from, for messages.

    Raises:
      InputError: an unknown field (with the nearest names) or a bad value.
    """
    if not all(isinstance(one, str) for one in settings):
        raise InputError(f'{source} must be a JSON list of strings, such as ["train.steps=5000"]')
    names = [one.name for one in dataclasses.fields(Config)]
    given = _Run(**{name: getattr(config, name) for name in names})
    whole = with_overrides(given, settings, source=source)
    return Config(**{name: getattr(whole, name) for name in names}), whole.run
