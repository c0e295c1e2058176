"""Named presets, each a function that returns a complete `Config`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from model.config import Config, DataConfig, GateConfig, ModelConfig, TrainConfig
from model.errors import InputError


def tiny() -> Config:
    """Trains in seconds on a laptop; for tests."""
    return Config(
        data=DataConfig(
            sentence_marks=False,
            record_words=64,
            vocab_size=512,
            min_count=1,
            valid_fraction=0.15,
            test_fraction=0.15,
        ),
        model=ModelConfig(
            word_dim=16,
            char_dim=8,
            max_word_bytes=12,
            filter_widths=(1, 2, 3),
            filter_counts=(8, 8, 8),
            lstm_layers=1,
            lstm_dim=24,
            input_dropout=0.1,
            hidden_dropout=0.1,
            output_dropout=0.1,
        ),
        train=TrainConfig(
            lanes=4,
            window=8,
            steps=60,
            learning_rate=1e-2,
            warmup_steps=5,
            log_steps=10,
            valid_steps=30,
            checkpoint_steps=20,
        ),
        gate=GateConfig(beat=("unigram",)),  # its text repeats word pairs
    )


def demo() -> Config:
    """A few minutes on two cores, for about 50,000 to 500,000 words of hard-wrapped text."""
    return Config(
        data=DataConfig(
            sentence_marks=False,
            record_words=256,
            vocab_size=8192,
            min_count=2,
            valid_fraction=0.1,
            test_fraction=0.1,
            max_stray_bytes=0.005,
        ),
        model=ModelConfig(
            word_dim=128,
            max_word_bytes=20,
            filter_widths=(1, 2, 3, 4, 5),
            filter_counts=(16, 32, 48, 64, 64),
            lstm_layers=1,
            lstm_dim=256,
            input_dropout=0.4,
            hidden_dropout=0.4,
            output_dropout=0.4,
        ),
        train=TrainConfig(lanes=32, window=32, steps=600, learning_rate=4e-3),
        gate=GateConfig(max_perplexity=500.0),
    )


def small() -> Config:
    """The sizes of LSTM-Char-Small (Kim et al. 2016), with an added word embedding."""
    return Config(
        data=DataConfig(),
        model=ModelConfig(),
        train=TrainConfig(
            lanes=64,
            window=35,
            steps=10_000,
            softmax="sampled",
            precision="bfloat16",
        ),
    )


def brown() -> Config:
    """The Brown protocol of Bengio et al. 2003: 800,001 words, about 20 minutes on two cores."""
    return Config(
        # Makes validation records fill the lanes exactly once.
        data=DataConfig(tokenizer="whitespace", sentence_marks=False, record_words=3200),
        model=ModelConfig(
            word_dim=300,
            max_word_bytes=20,
            lstm_dim=400,
            input_dropout=0.4,
            hidden_dropout=0.4,
            output_dropout=0.5,
            recurrent_dropout=0.2,
        ),
        train=TrainConfig(
            lanes=64,
            window=35,
            steps=4000,
            learning_rate=3e-3,
            warmup_steps=200,
            softmax="sampled",
            sampled_words=2048,
            precision="bfloat16",
            rare_targets=0.02,
            average_last=0.25,
            valid_steps=1000,
            checkpoint_steps=250,
        ),
    )


def onebillion() -> Config:
    """LSTM-2048-512 of Jozefowicz et al. 2016 (arXiv 1602.02410), with a tied word embedding.

    For the One Billion Word benchmark: tokenised text, one sentence per line, in any order.
    """
    return Config(
        data=DataConfig(
            tokenizer="whitespace",
            document="line",
            vocab_size=800_000,
            min_count=3,
            valid_fraction=0.001,
            test_fraction=0.001,
        ),
        model=ModelConfig(
            word_dim=512,
            max_word_bytes=32,
            filter_widths=(1, 2, 3, 4, 5, 6, 7),
            filter_counts=(50, 100, 150, 200, 200, 200, 200),
            lstm_dim=2048,
            lstm_projection=512,
            input_dropout=0.1,
            hidden_dropout=0.1,
            output_dropout=0.1,
        ),
        train=TrainConfig(
            lanes=512,
            window=20,
            steps=400_000,
            warmup_steps=2000,
            learning_rate=1e-3,
            softmax="sampled",
            sampled_words=8192,
            precision="bfloat16",
            log_steps=100,
            valid_steps=10_000,
            checkpoint_steps=2000,
        ),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "tiny": tiny,
    "demo": demo,
    "small": small,
    "brown": brown,
    "onebillion": onebillion,
}


def get_preset(name: str) -> Config:
    """Returns the preset called `name`.

    Raises:
      InputError: there is no such preset.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}{hint}")
    return PRESETS[name]()
