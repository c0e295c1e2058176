from __future__ import annotations

import random

import numpy as np
import tensorflow as tf

from model.checkpointing.trained import load_model
from model.data.records import Dataset
from model.evaluation.evaluate import sample_next_words
from model.text.display import markdown
from model.training.samples import sample_table


def test_the_table_and_that_nothing_is_touched(tiny_training: str, tiny_records: str) -> None:
    with Dataset.open(tiny_records) as dataset:
        loaded = load_model(tiny_training, dataset)
        before = [variable.numpy() for variable in loaded.model.variables]
        python, numpy = random.getstate(), np.random.get_state()[1].tolist()
        tf.random.set_seed(7)
        expected_draw = float(tf.random.uniform([]))
        tf.random.set_seed(7)
        text = sample_table(loaded.model, loaded.config, dataset)
        assert float(tf.random.uniform([])) == expected_draw
        assert (random.getstate(), np.random.get_state()[1].tolist()) == (python, numpy)
        for variable, value in zip(loaded.model.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
        samples = sample_next_words(loaded, dataset, split="valid", count=3)
    lines = text.split("\n")
    assert lines[:2] == ["| after | comes | expected |", "| --- | --- | --- |"]
    assert len(lines) == 2 + len(samples) == 5
    for line, sample in zip(lines[2:], samples, strict=True):
        context, truth, expected = line.strip("| ").split(" | ")
        assert context.split(" ")[-1] == markdown(sample["context"].split(" ")[-1])
        assert truth == markdown(sample["truth"])
        shown = [f"{one['word']} {one['probability']:.3f}" for one in sample["next"]]
        assert expected == markdown(", ".join(shown))
