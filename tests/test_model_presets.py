from __future__ import annotations

import pytest

from model.config import Config, from_json, to_json
from model.errors import InputError
from model.presets import PRESETS, get_preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_configs_that_survive_json(name: str) -> None:
    config = get_preset(name)
    assert isinstance(config, Config)
    assert from_json(to_json(config)) == config
    assert PRESETS[name].__name__ == name
    assert PRESETS[name].__doc__


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_sample_what_they_say(name: str) -> None:
    config = get_preset(name)
    if config.train.softmax == "sampled":
        assert config.train.sampled_words <= config.data.vocab_size // 4
    if config.train.rare_targets:
        assert config.data.min_count < config.train.rare_count  # else no word is rare


def test_presets_differ() -> None:
    configs = [get_preset(name) for name in PRESETS]
    assert all(one != other for one in configs for other in configs if one is not other)


def test_unknown_preset_gets_the_nearest_name() -> None:
    listed = ", ".join(PRESETS)
    with pytest.raises(InputError) as caught:
        get_preset("tinny")
    assert (
        str(caught.value) == f"unknown preset 'tinny'; choose one of {listed}; did you mean tiny?"
    )
    with pytest.raises(InputError) as caught:
        get_preset("Q")
    assert str(caught.value) == f"unknown preset 'Q'; choose one of {listed}"
