"""The KFP components of the preprocess stage: what there is, and the records made of it.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP
ships a function's source only, so everything a body needs is imported inside it.
"""

from typing import NamedTuple

from kfp import dsl

from components.component_runtime import container_image


@dsl.component(base_image=container_image(), install_kfp_package=False)
def find_inputs(
    inputs: str,
    config: str = "",
    preset: str = "",
    max_perplexity: float = 0.0,
    vocab: str = "",
    source_root: str = "",
    window_days: int = 1,
    scheduled: str = "",
    created: str = "",
    compare_to: str = "",
    registry: str = "",
    model_name: str = "",
    warm_start: str = "",
    steps_share: float = 0.5,
    extend_vocab: bool = False,
    require_improvement: bool = False,
) -> NamedTuple(  # type: ignore[valid-type]
    "FoundInputs",
    [
        ("inputs", str),
        ("fingerprint", str),
        ("data", str),
        ("config", str),
        ("judged", str),
        ("champion", str),
        ("reference", str),
        ("base", str),
        ("vocab", str),
        ("extend_vocab", bool),
        ("run", str),
        ("begun", str),
    ],
):
    """Looks up what the run is made of; never cached, so that changed text is noticed.

    Args:
        inputs: JSON list of file names, folders and glob patterns, which may hold dates.
        config: the whole configuration as JSON.
        preset: name of a configuration, in place of config.
        max_perplexity: limit of the gate; 0 takes that of the configuration.
        vocab: file of the words of the vocabulary; if empty, the text gives them.
        source_root: folder below which the names of files begin; if empty, the patterns say.
        window_days: how many days the dates in inputs go back.
        scheduled: when the run was scheduled.
        created: when the run was made.
        compare_to: folder of records that the run's are compared to; if empty, there are none.
        registry: folder of published models.
        model_name: name of the model in it.
        warm_start: version or model with whose weights and words training begins, or champion.
        steps_share: with it, the share of the configuration's steps that are trained.
        extend_vocab: whether the text adds words to those of warm_start or vocab.
        require_improvement: whether the model must be significantly better than the champion.

    Returns:
        inputs: JSON list of the patterns, dates filled in.
        fingerprint: SHA-256 of names, sizes and times of change of the files, and of the digests of
            the records to compare to and of the base that gives the words.
        data: the data section of the configuration.
        config: the whole configuration.
        judged: the same with the run's own limits of the gate.
        champion: folder of the version with which the model is compared.
        reference: folder of the best version so far, which bounds the total loss.
        base: folder of the version with whose weights training begins.
        vocab: file of the words of the vocabulary.
        extend_vocab: whether the text adds words to them.
        run: identity of the run.
        begun: digest of the checkpoint of base.
    """
    from components.component_runtime import reporting_errors
    from components.preprocess.analysis.drift_limits import Comparison
    from components.preprocess.inputs import find as stage
    from components.preprocess.inputs.warm_start_options import Start

    with reporting_errors():
        found = stage.find_inputs(
            inputs,
            registry=registry,
            model_name=model_name,
            start=Start(
                warm_start=warm_start,
                steps_share=steps_share,
                extend_vocab=extend_vocab,
                require_improvement=require_improvement,
            ),
            config=config,
            preset=preset,
            max_perplexity=max_perplexity,
            vocab=vocab,
            source_root=source_root,
            window_days=window_days,
            times=(scheduled, created),
        )
        comparison = Comparison(compare_to=compare_to)
        found = found._replace(fingerprint=comparison.extend_fingerprint(found.fingerprint))
    return tuple(found)


@dsl.component(base_image=container_image(), install_kfp_package=False)
def preprocess(
    inputs: str,
    config: str,
    records: dsl.Output[dsl.Dataset],
    data_card: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    vocab: str = "",
    extend_vocab: bool = False,
    source_root: str = "",
    fingerprint: str = "",
    compare_to: str = "",
    max_new_word_rate: float = 1.0,
    max_divergence: float = 1.0,
    shared: str = "",
) -> None:
    """Turns raw text into shards of encoded records and a vocabulary.

    Args:
        inputs: JSON list of file names, folders and glob patterns.
        config: the configuration as JSON; its data section is used.
        records: folder of shards, vocabulary and dataset.json, or of LOCATION, which says
            where that folder is.
        data_card: data_card.html, for the KFP page of this task.
        metrics: sizes of the splits, in words, and of the vocabulary; how far the words have
            drifted, if there is something to compare to.
        vocab: file of the words of the vocabulary; if empty, the text gives them.
        extend_vocab: whether the text adds its most frequent words to those of vocab.
        source_root: folder below which the names of files begin; if empty, the patterns say.
        fingerprint: of the text, so that KFP's cache tells changed text.
        compare_to: folder of other records; if empty, nothing is compared.
        max_new_word_rate: share of training words that may be new; above it the task fails. 1
            is no limit.
        max_divergence: Jensen-Shannon divergence of the words, in bits, above which it fails. 1
            is no limit.
        shared: where a cluster's pods mount the shared volume.
    """
    import json
    import os
    import shutil

    from components.component_runtime import (
        describe_output,
        output_folder,
        reporting_errors,
        run_folder,
        select_numbers,
    )
    from components.preprocess.analysis.drift_limits import Comparison
    from components.preprocess.main import run
    from model.config import from_json
    from model.data.records import CARD_FILE

    with reporting_errors():
        comparison = Comparison(
            compare_to=compare_to,
            max_new_word_rate=max_new_word_rate,
            max_divergence=max_divergence,
        )
        data = from_json(config).data
        comparison.check_other(data)
        folder = output_folder(records.path, run_folder(shared), "records")
        dataset = run(
            inputs=json.loads(inputs),
            vocab=vocab,
            extend_vocab=extend_vocab,
            source_root=source_root,
            records=folder,
            config=data,
        )
        describe_output(records.path, folder, "dataset.json")
        shutil.copyfile(os.path.join(folder, CARD_FILE), data_card.path)
        drift = comparison.apply(folder)
    paths = {f"{split}_words": f"splits.{split}.words" for split in ("train", "valid", "test")}
    figures = select_numbers(dataset, {**paths, "vocabulary": "vocab.size"})
    if drift is not None:
        names = ("new_word_rate", "divergence")
        figures |= select_numbers(drift.to_dict(), {name: name for name in names})
    for name, value in figures.items():
        metrics.log_metric(name, value)
