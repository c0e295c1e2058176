"""The KFP component of the preprocess stage.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP
ships a function's source only, so everything a body needs is imported inside it.
"""

from kfp import dsl

from components.task import container_image


@dsl.component(base_image=container_image(), install_kfp_package=False)
def preprocess(
    inputs: str,
    config: str,
    records: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    vocab: str = "",
) -> None:
    """Turns raw text into shards of encoded records and a vocabulary.

    Args:
        inputs: JSON list of file names and glob patterns.
        config: the whole configuration as JSON.
        records: folder of shards, vocabulary and dataset.json.
        metrics: sizes of the splits, in words, and of the vocabulary.
        vocab: file of the words of the vocabulary; if empty, the text gives them.
    """
    import json

    from components.preprocess.main import run
    from components.task import reporting_errors, select_numbers
    from model.config import from_json

    with reporting_errors():
        dataset = run(
            inputs=json.loads(inputs),
            vocab=vocab,
            records=records.path,
            config=from_json(config).data,
        )
    paths = {f"{split}_words": f"splits.{split}.words" for split in ("train", "valid", "test")}
    for name, value in select_numbers(dataset, {**paths, "vocabulary": "vocab.size"}).items():
        metrics.log_metric(name, value)
