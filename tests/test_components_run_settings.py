"""A run's settings: as text, as JSON, their checks, and the flags that come from them."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest

from components.run_settings import (
    DEFAULTS,
    PREPARING,
    TRAINING,
    RunSettings,
    choose_config,
    read_run,
    setting_names,
)
from model.config import field_names, to_json, with_overrides
from model.errors import InputError
from model.field_docs import field_docs
from model.presets import demo, tiny
from pipelines.cli import flags

OTHER = RunSettings(
    warm_start="champion",
    steps_share=0.25,
    vocab="/w=1.txt",
    extend_vocab=True,
    source_root="/text",
    compare_to="/records",
    max_new_word_rate=0.5,
    max_divergence=0.125,
    leak_check_records=5,
    max_restarts=0,
)
NAMES = [field.name for field in dataclasses.fields(RunSettings)]


def test_settings_are_what_they_are_as_text_and_as_json() -> None:
    assert all(getattr(OTHER, name) != getattr(DEFAULTS, name) for name in NAMES)
    assert read_run(tiny(), OTHER.to_settings()) == (tiny(), OTHER)
    assert RunSettings.from_json(OTHER.to_json(NAMES)) == OTHER
    assert (DEFAULTS.to_settings(), DEFAULTS.to_json(NAMES)) == ([], "{}")
    assert RunSettings.from_json("{}") == DEFAULTS
    assert OTHER.to_json(TRAINING) == '{"max_restarts": 0}'
    assert set(PREPARING) | set(TRAINING) < set(NAMES)


def test_settings_change_the_configuration_too() -> None:
    config, run = read_run(tiny(), ["train.steps=5", "run.max_restarts=1", "train.steps=6"])
    assert config == with_overrides(tiny(), ["train.steps=6"])
    assert type(config) is type(tiny())
    assert run == RunSettings(max_restarts=1)
    assert setting_names() == [*field_names(), *(f"run.{name}" for name in NAMES)]


def test_a_preset_is_a_name_or_a_whole_configuration() -> None:
    assert choose_config("") == choose_config(" demo ") == demo()
    assert choose_config(f"\n{to_json(tiny())}") == tiny()
    with pytest.raises(InputError, match=r"unknown preset 'tny'; .* did you mean tiny\?"):
        choose_config("tny")
    with pytest.raises(InputError, match="the configuration in preset is not JSON"):
        choose_config("{")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps_share": 0.0}, "run.steps_share is 0.0; it must be above 0 and at most 1"),
        ({"steps_share": 1.5}, "run.steps_share is 1.5; it must be above 0 and at most 1"),
        ({"steps_share": float("nan")}, "run.steps_share is nan; it must be above 0"),
        ({"steps_share": 0.3}, "run.steps_share has no effect without run.warm_start; set train."),
        (
            {"extend_vocab": True},
            "run.extend_vocab needs words to extend; also set run.warm_start or ",
        ),
        ({"max_divergence": 0.5}, "run.max_divergence has no effect without run.compare_to; name"),
        ({"max_new_word_rate": 2.0}, "run.max_new_word_rate is 2.0; it must be between 0.0 and 1"),
        ({"max_restarts": -1}, "run.max_restarts is -1; it must be between 0 and "),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        RunSettings(**settings)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("words", [{"vocab": "w"}, {"warm_start": "champion"}])
def test_words_that_can_be_extended(words: dict[str, Any]) -> None:
    assert RunSettings(extend_vocab=True, **words).extend_vocab


def test_every_setting_is_a_flag() -> None:
    parser = argparse.ArgumentParser()
    flags.add_set(parser)
    flags.add_run_settings(parser, flags.RUN_FIELDS)
    arguments = []
    for name in NAMES:
        value = getattr(OTHER, name)
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if value is True else [flag, str(value)]
    settings = flags.list_settings(parser.parse_args(arguments))
    assert read_run(tiny(), settings)[1] == OTHER
    assert flags.list_settings(parser.parse_args([])) == []
    off = flags.list_settings(parser.parse_args(["--no-leak-check"]))
    assert read_run(tiny(), off)[1] == RunSettings(leak_check_records=0)
    shown = " ".join(parser.format_help().split())
    for name in ("warm_start", "max_restarts"):
        assert " ".join(field_docs(RunSettings)[name].replace("`", "").split()[:6]) in shown
