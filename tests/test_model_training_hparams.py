from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata

from model.config import field_names, with_overrides
from model.presets import tiny
from model.training.hparams import FINAL_TAG, flat_config, write_end, write_start


def test_every_field_of_model_and_train() -> None:
    fields = flat_config(tiny())
    assert list(fields) == [name for name in field_names() if name.startswith(("model.", "train."))]
    assert fields["model.filter_widths"] == "1,2,3"
    assert fields["model.tied"] is True
    assert fields["train.learning_rate"] == 1e-2
    assert {type(value) for value in fields.values()} <= {bool, int, float, str}


@pytest.mark.parametrize("valid", [123.5, None])
def test_what_tensorboard_reads(tmp_path: Path, valid: float | None) -> None:
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        write_start(with_overrides(tiny(), ["train.steps=77"]), workdir="/work/one")
        write_end(step=77, valid_perplexity=valid)
    writer.close()
    (path,) = tmp_path.iterdir()
    values = {
        value.tag: (event.step, value)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    content = {
        tag: value.metadata.plugin_data.content
        for tag, (_, value) in values.items()
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    start = metadata.parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    end = metadata.parse_session_end_info_plugin_data(content["_hparams_/session_end_info"])
    assert start.group_name == "/work/one"
    assert start.hparams["train.steps"].number_value == 77
    assert start.hparams["model.tied"].bool_value is True
    assert end.status == 1  # success
    if valid is None:
        assert FINAL_TAG not in values
    else:
        step, value = values[FINAL_TAG]
        assert (step, float(tf.make_ndarray(value.tensor))) == (77, valid)
