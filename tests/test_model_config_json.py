"""Configurations as JSON that can't be read, or not whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model.config import (
    CONFIG_VERSION,
    Config,
    TrainConfig,
    from_json,
    to_json,
)
from model.errors import InputError


def test_missing_fields_have_their_defaults() -> None:
    config = from_json(json.dumps({"config_version": CONFIG_VERSION, "train": {"steps": 9}}))
    assert config == Config(train=TrainConfig(steps=9))


@pytest.mark.parametrize("version", [CONFIG_VERSION + 1, 0, None, "1"])
def test_another_config_version_is_refused(version: object) -> None:
    text = json.dumps({**json.loads(to_json(Config())), "config_version": version})
    with pytest.raises(InputError) as caught:
        from_json(text, source="old/config.json")
    assert str(caught.value) == (
        f"old/config.json was made with config version {version}, but this charloom reads version "
        f"{CONFIG_VERSION}; run the stage that wrote it again"
    )


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (
            {"train": {"step": 1}},
            "c.json has an unknown field train.step; did you mean train.steps",
        ),
        ({"trian": {}}, "c.json has an unknown field trian"),
        ({"train": 5}, "c.json: train is not a section"),
        ({"train": {"steps": "5"}}, "train.steps is '5'; it must be a whole number"),
        ({"model": {"filter_widths": None}}, "model.filter_widths is None"),
        ({"data": {"tokenizer": 1}}, "data.tokenizer is 1; it must be a string"),
        ({"train": {"steps": 0}}, "train.steps is 0; it must be between 1 and"),
    ],
)
def test_bad_json_values(values: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(json.dumps({"config_version": CONFIG_VERSION, **values}), source="c.json")
    assert part in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", to_json(Config())[:-3], "[1]", "null", "5"])
def test_text_that_is_no_config(text: str) -> None:
    with pytest.raises(InputError, match=r"^c\.json is not (JSON|a JSON object).*again$"):
        from_json(text, source="c.json")
