from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, get_type_hints

import pytest

from model.config import (
    CONFIG_VERSION,
    Config,
    DataConfig,
    GateConfig,
    ModelConfig,
    TrainConfig,
    field_names,
    from_json,
    to_dict,
    to_json,
    with_overrides,
)
from model.errors import CharloomError, InputError

EVERY_FIELD = [
    "data.tokenizer=whitespace",
    "data.lowercase=true",
    "data.sentence_marks=false",
    "data.document=line",
    "data.record_words=99",
    "data.vocab_size=999",
    "data.min_count=3",
    "data.valid_fraction=0.125",
    "data.test_fraction=0.25",
    "data.shard_megabytes=7",
    "data.encoding=latin-1",
    "data.on_bad_text=skip",
    "data.max_stray_bytes=0.0625",
    "model.inputs=characters",
    "model.char_cnn=frozen",
    "model.word_dim=17",
    "model.char_dim=5",
    "model.max_word_bytes=11",
    "model.filter_widths=2,4",
    "model.filter_counts=6,8",
    "model.highway_layers=2",
    "model.lstm_layers=3",
    "model.lstm_dim=19",
    "model.lstm_projection=13",
    "model.tied=false",
    "model.input_dropout=0",
    "model.hidden_dropout=0.5",
    "model.output_dropout=0.25",
    "model.recurrent_dropout=0.75",
    "model.dropout_mask=word",
    "train.lanes=6",
    "train.window=9",
    "train.steps=77",
    "train.learning_rate=0.5",
    "train.warmup_steps=0",
    "train.schedule=plateau",
    "train.softmax=sampled",
    "train.sampled_words=50",
    "train.rare_targets=0.125",
    "train.rare_count=4",
    "train.precision=bfloat16",
    "train.reduce_precision=float32",
    "train.average_last=0.25",
    "train.patience=2",
    "train.weight_decay=0.5",
    "train.clip_norm=2",
    "train.seed=5",
    "train.deterministic=true",
    "train.log_steps=3",
    "train.valid_steps=4",
    "train.checkpoint_steps=5",
    "train.keep_checkpoints=6",
    "gate.max_perplexity=55",
    "gate.max_unknown_rate=0.25",
    "gate.beat=unigram",
    "gate.tolerance=0.01",
    "gate.max_drift=0.03",
    "gate.require_improvement=true",
    "gate.confidence=0.9",
    "gate.min_units=30",
    "gate.min_test_words=50",
    "gate.max_slice_loss=0.1",
]
"""Another value than the default for every field there is."""

RANGES: list[tuple[str, float, float]] = [
    ("data.record_words", 8, 1 << 20),
    ("data.vocab_size", 8, 1 << 24),
    ("data.min_count", 1, 1 << 20),
    ("data.valid_fraction", 0.0, 0.5),
    ("data.test_fraction", 0.0, 0.5),
    ("data.shard_megabytes", 1, 1 << 14),
    ("data.max_stray_bytes", 0.0, 0.1),
    ("model.word_dim", 1, 1 << 14),
    ("model.char_dim", 1, 1 << 10),
    ("model.max_word_bytes", 4, 1 << 10),
    ("model.highway_layers", 0, 16),
    ("model.lstm_layers", 1, 16),
    ("model.lstm_dim", 1, 1 << 14),
    ("model.lstm_projection", 0, 300),
    ("model.input_dropout", 0.0, 0.9),
    ("model.hidden_dropout", 0.0, 0.9),
    ("model.output_dropout", 0.0, 0.9),
    ("model.recurrent_dropout", 0.0, 0.9),
    ("train.lanes", 1, 1 << 30),
    ("train.window", 1, 1 << 30),
    ("train.steps", 1, 1 << 30),
    ("train.learning_rate", 1e-9, 10.0),
    ("train.warmup_steps", 0, 1 << 30),
    ("train.sampled_words", 1, 1 << 20),
    ("train.rare_targets", 0.0, 0.5),
    ("train.rare_count", 1, 1 << 20),
    ("train.average_last", 0.0, 1.0),
    ("train.patience", 0, 1 << 20),
    ("train.weight_decay", 0.0, 1.0),
    ("train.clip_norm", 1e-6, 1e6),
    ("train.seed", 0, (1 << 31) - 1),
    ("train.log_steps", 1, 1 << 30),
    ("train.valid_steps", 1, 1 << 30),
    ("train.checkpoint_steps", 1, 1 << 30),
    ("train.keep_checkpoints", 2, 1 << 10),
    ("gate.max_perplexity", 1.0, 1e12),
    ("gate.max_unknown_rate", 0.0, 1.0),
    ("gate.tolerance", 0.0, 1.0),
    ("gate.max_drift", 0.0, 1.0),
    ("gate.confidence", 0.5, 0.9999),
    ("gate.min_units", 5, 1_000_000),
    ("gate.min_test_words", 1, 1 << 40),
    ("gate.max_slice_loss", 0.0, 1e6),
]
CHOICES = {
    "data.tokenizer": ("words", "whitespace", "graphemes"),
    "data.document": ("file", "paragraph", "line"),
    "data.on_bad_text": ("error", "skip", "replace"),
    "model.inputs": ("joint", "words", "characters"),
    "model.char_cnn": ("trained", "frozen"),
    "model.dropout_mask": ("window", "word"),
    "train.schedule": ("cosine", "plateau"),
    "train.softmax": ("full", "sampled"),
    "train.precision": ("float32", "bfloat16"),
    "train.reduce_precision": ("auto", "float32", "bfloat16"),
}


def get(config: Config, name: str) -> Any:
    section, field = name.split(".")
    return getattr(getattr(config, section), field)


def hint_of(name: str) -> Any:
    section, field = name.split(".")
    return get_type_hints(get_type_hints(Config)[section])[field]


def refusal(*settings: str) -> str:
    """Returns the message with which settings are refused."""
    with pytest.raises(InputError) as caught:
        with_overrides(Config(), settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_tables_cover_all_fields() -> None:
    assert [setting.split("=")[0] for setting in EVERY_FIELD] == field_names()
    numbers = {name for name in field_names() if hint_of(name) in (int, float)}
    assert {name for name, _, _ in RANGES} == numbers
    texts = {name for name in field_names() if hint_of(name) is str}
    assert {*CHOICES, "data.encoding"} == texts


def test_every_field_can_be_overridden() -> None:
    changed = with_overrides(Config(), EVERY_FIELD)
    assert all(get(changed, name) != get(Config(), name) for name in field_names())
    assert changed.model.filter_widths == (2, 4)
    assert changed.data.sentence_marks is False
    assert changed.train.clip_norm == 2.0
    assert type(changed.train.clip_norm) is float
    assert changed.gate == GateConfig(
        max_perplexity=55.0,
        max_unknown_rate=0.25,
        beat=("unigram",),
        tolerance=0.01,
        max_drift=0.03,
        require_improvement=True,
        confidence=0.9,
        min_units=30,
        min_test_words=50,
        max_slice_loss=0.1,
    )


def test_a_list_of_texts() -> None:
    for setting in ("bigram,unigram", '["bigram", "unigram"]', "bigram, unigram"):
        changed = with_overrides(Config(), [f"gate.beat={setting}"])
        assert changed.gate.beat == ("bigram", "unigram")
    assert with_overrides(Config(), ["gate.beat="]).gate.beat == ()
    assert refusal("gate.beat=unigram,trigram") == (
        "gate.beat is 'trigram'; it must be one of unigram, bigram (did you mean 'bigram'?)"
    )


def test_overrides_leave_the_rest_alone() -> None:
    changed = with_overrides(Config(), ["train.steps=3", "train.steps=4"])
    assert changed == Config(train=TrainConfig(steps=4))
    assert with_overrides(changed, []) == changed


@pytest.mark.parametrize("config", [Config(), with_overrides(Config(), EVERY_FIELD)])
def test_json_round_trip(config: Config) -> None:
    text = to_json(config)
    assert from_json(text) == config
    assert json.loads(text) == {"config_version": CONFIG_VERSION, **to_dict(config)}
    assert text.endswith("}\n")


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
def test_ranges(name: str, low: float, high: float) -> None:
    whole = hint_of(name) is int
    narrow = ["model.filter_widths=1", "model.filter_counts=1"]  # for any max_word_bytes
    for value in (low, high):
        assert get(with_overrides(Config(), [*narrow, f"{name}={value}"]), name) == value
    below = low - 1 if whole else math.nextafter(low, -math.inf)
    above = high + 1 if whole else math.nextafter(high, math.inf)
    for value in (below, above):
        assert refusal(*narrow, f"{name}={value}") == (
            f"{name} is {value}; it must be between {low} and {high}"
        )


def test_a_filter_is_no_wider_than_a_word() -> None:
    assert (
        refusal("model.max_word_bytes=5") == "model.filter_widths is 6; it must be between 1 and 5"
    )


def test_a_projection_is_no_larger_than_the_layer() -> None:
    assert refusal("model.lstm_dim=9", "model.lstm_projection=10") == (
        "model.lstm_projection is 10; it must be between 0 and 9"
    )
    assert ModelConfig(lstm_dim=9).output_size == 9
    assert ModelConfig(lstm_dim=9, lstm_projection=4).output_size == 4


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_are_finite(value: str) -> None:
    assert "must be between" in refusal(f"train.learning_rate={value}")


@pytest.mark.parametrize(("name", "choices"), CHOICES.items())
def test_choices(name: str, choices: tuple[str, ...]) -> None:
    for choice in choices:
        config = with_overrides(Config(), ["model.tied=false", f"{name}={choice}"])
        assert get(config, name) == choice
    near = choices[0][:-1]
    assert refusal(f"{name}={near}") == (
        f"{name} is {near!r}; it must be one of {', '.join(choices)} (did you mean {choices[0]!r}?)"
    )
    assert refusal(f"{name}=0").endswith(f"must be one of {', '.join(choices)}")


def test_encoding_must_be_known() -> None:
    for name in ("utf-9", "hex", "undefined"):
        message = refusal(f"data.encoding={name}")
        assert message.startswith(f"data.encoding is {name!r}, which Python does not know")


@pytest.mark.parametrize(
    ("widths", "counts", "part"),
    [
        ("1,2", "3", "model.filter_widths has 2 entries and model.filter_counts 1"),
        ("", "", "model.filter_widths has 0 entries and model.filter_counts 0"),
        ("1,25", "3,3", "model.filter_widths is 25; it must be between 1 and 24"),
        ("1,0", "3,3", "model.filter_widths is 0; it must be between 1 and 24"),
        ("2,3,2", "3,3,3", "model.filter_widths has 2 twice; name it once, with both model."),
        ("1,2", "3,0", "model.filter_counts is 0; it must be between 1 and 16384"),
    ],
)
def test_filters(widths: str, counts: str, part: str) -> None:
    assert part in refusal(f"model.filter_widths={widths}", f"model.filter_counts={counts}")


def test_tied_needs_a_word_embedding() -> None:
    assert "add --set model.tied=false" in refusal("model.inputs=characters")
    assert not with_overrides(Config(), ["model.inputs=characters", "model.tied=false"]).model.tied


@pytest.mark.parametrize(
    ("setting", "near"),
    [
        ("train.step=5", "train.steps"),
        ("train.learningrate=1", "train.learning_rate"),
        ("tran.window=5", "train.window"),
        ("modle.lstm_dim=5", "model.lstm_dim"),
        ("steps=5", "train.steps"),
        ("lanes=5", "train.lanes"),
        ("gate.perplexity=5", "gate.max_perplexity"),
    ],
)
def test_typo_gets_the_nearest_names(setting: str, near: str) -> None:
    name = setting.split("=")[0]
    message = refusal(setting)
    assert message.startswith(f"--set names an unknown field {name!r}; did you mean ")
    assert near in message.split("did you mean ")[1].rstrip("?").split(" or ")


def test_unlike_name_gets_no_guess() -> None:
    assert refusal("zzz.qqq=1") == "--set names an unknown field 'zzz.qqq'"


def test_setting_without_equals() -> None:
    assert refusal("train.steps") == ("--set 'train.steps' has no '='; write it as train.steps=500")


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("train.steps=many", "train.steps is 'many'; it must be a whole number"),
        ("train.steps=5.0", "train.steps is 5.0; it must be a whole number"),
        ("train.steps=true", "train.steps is True; it must be a whole number"),
        ("train.steps=", "train.steps is ''; it must be a whole number"),
        ("train.clip_norm=true", "train.clip_norm is True; it must be a number"),
        ("train.clip_norm=null", "train.clip_norm is None; it must be a number"),
        ("data.lowercase=1", "data.lowercase is 1; it must be true or false"),
        ("data.lowercase=yes", "data.lowercase is 'yes'; it must be true or false"),
        ("model.filter_widths=1,b", "it must be a whole number"),
        ("model.filter_widths=1,2.5", "model.filter_widths is 2.5; it must be a whole number"),
    ],
)
def test_value_of_another_type(setting: str, part: str) -> None:
    assert part in refusal(setting)


@pytest.mark.parametrize("text", ["2,3", "[2,3]", "(2, 3)", " 2 , 3 "])
def test_tuples_are_read_as_people_write_them(text: str) -> None:
    settings = [f"model.filter_widths={text}", "model.filter_counts=4,4"]
    assert with_overrides(Config(), settings).model.filter_widths == (2, 3)


@pytest.mark.parametrize("text", ["True", "true", "TRUE"])
def test_truth_is_read_in_any_case(text: str) -> None:
    assert with_overrides(Config(), [f"data.lowercase={text}"]).data.lowercase is True


@pytest.mark.parametrize("section", [DataConfig, ModelConfig, TrainConfig, GateConfig, Config])
def test_sections_are_frozen(section: type[Any]) -> None:
    one = section()
    field = dataclasses.fields(one)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, field, getattr(one, field))


def test_errors_are_value_errors_with_an_exit_code() -> None:
    # The contract of __post_init__: a ValueError, which the command line ends with code 2.
    with pytest.raises(ValueError, match=r"train\.steps") as caught:
        TrainConfig(steps=0)
    assert isinstance(caught.value, CharloomError)
    assert caught.value.exit_code == 2
