"""The KFP components of the preprocess stage: what there is, and the records made of it.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP
ships a function's source only, so everything a body needs is imported inside it.
"""

from typing import NamedTuple

from kfp import dsl

from components.task import container_image


@dsl.component(base_image=container_image(), install_kfp_package=False)
def find_inputs(
    inputs: str,
    config: str = "",
    preset: str = "",
    max_perplexity: float = 0.0,
    vocab: str = "",
    window_days: int = 1,
    scheduled: str = "",
    created: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "FoundInputs",
    [("inputs", str), ("fingerprint", str), ("data", str), ("config", str), ("judged", str)],
):
    """Looks up what the run is made of; never cached, so that changed text is noticed.

    Args:
        inputs: JSON list of file names, folders and glob patterns, which may hold dates.
        config: the whole configuration as JSON.
        preset: name of a configuration, in place of config.
        max_perplexity: limit of the gate; 0 takes that of the configuration.
        vocab: file of the words of the vocabulary; if empty, the text gives them.
        window_days: how many days the dates in inputs go back.
        scheduled: when the run was scheduled.
        created: when the run was made.

    Returns:
        inputs: JSON list of the patterns, dates filled in.
        fingerprint: SHA-256 of names, sizes and times of change of the files.
        data: the data section of the configuration.
        config: the whole configuration.
        judged: the same with the run's own limits of the gate.
    """
    from components.preprocess import inputs as stage
    from components.task import reporting_errors

    with reporting_errors():
        found = stage.find_inputs(
            inputs,
            config=config,
            preset=preset,
            max_perplexity=max_perplexity,
            vocab=vocab,
            window_days=window_days,
            times=(scheduled, created),
        )
    return tuple(found)


@dsl.component(base_image=container_image(), install_kfp_package=False)
def preprocess(
    inputs: str,
    config: str,
    records: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    vocab: str = "",
    fingerprint: str = "",
    shared: str = "",
) -> None:
    """Turns raw text into shards of encoded records and a vocabulary.

    Args:
        inputs: JSON list of file names and glob patterns.
        config: the configuration as JSON; its data section is used.
        records: folder of shards, vocabulary and dataset.json, or of LOCATION, which says
            where that folder is.
        metrics: sizes of the splits, in words, and of the vocabulary.
        vocab: file of the words of the vocabulary; if empty, the text gives them.
        fingerprint: of the text, so that KFP's cache tells changed text.
        shared: where a cluster's pods mount the shared volume.
    """
    import json

    from components.preprocess.main import run
    from components.task import (
        describe_output,
        output_folder,
        reporting_errors,
        run_folder,
        select_numbers,
    )
    from model.config import from_json

    with reporting_errors():
        folder = output_folder(records.path, run_folder(shared), "records")
        dataset = run(
            inputs=json.loads(inputs),
            vocab=vocab,
            records=folder,
            config=from_json(config).data,
        )
        describe_output(records.path, folder, "dataset.json")
    paths = {f"{split}_words": f"splits.{split}.words" for split in ("train", "valid", "test")}
    for name, value in select_numbers(dataset, {**paths, "vocabulary": "vocab.size"}).items():
        metrics.log_metric(name, value)
