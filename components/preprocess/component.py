"""The KFP components of the preprocess stage: what there is, and the records made of it.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP
ships a function's source only, so everything a body needs is imported inside it.
"""

from typing import NamedTuple

from kfp import dsl

from components.component_runtime import container_image


@dsl.component(base_image=container_image(), install_kfp_package=False)
def find_inputs(
    corpus: str,
    settings: list,  # type: ignore[type-arg]
    listing: dsl.Output[dsl.Artifact],
    preset: str = "",
    window_days: int = 1,
    scheduled: str = "",
    created: str = "",
    registry: str = "",
    model_name: str = "",
    shared: str = "",
    prepare_memory: str = "8Gi",
    worker_cpu: str = "2",
    worker_gpus: int = 0,
    worker_memory: str = "8Gi",
    workers: int = 1,
) -> NamedTuple(  # type: ignore[valid-type]
    "FoundInputs",
    [
        ("listing_folder", str),
        ("fingerprint", str),
        ("data", str),
        ("config", str),
        ("judged", str),
        ("champion", str),
        ("reference", str),
        ("base", str),
        ("preparation", str),
        ("training", str),
        ("run", str),
        ("begun", str),
    ],
):
    """Looks up what the run is made of and lists its text; never cached, so that it notices changes.

    Args:
        corpus: JSON list of file names, folders and glob patterns, which may hold dates.
        settings: what differs from preset, and the run's settings, as section.field=value.
        listing: folder of listing.jsonl, path, size, time of change and split of every text file,
            or of LOCATION, which says where that folder is.
        preset: name of a configuration, or a whole one as JSON.
        window_days: how many days the dates in corpus go back.
        scheduled: when the run was scheduled.
        created: when the run was made.
        registry: folder of published models.
        model_name: name of the model in it.
        shared: where a cluster's pods mount the shared volume.
        prepare_memory: of a later step; like the four that follow, only checked here.
        worker_cpu: of each worker.
        worker_gpus: of each worker.
        worker_memory: of each worker.
        workers: how many train together.

    Returns:
        listing_folder: where preprocess finds the listing; relative to the folder of the run on a
            shared volume, because KFP's cache must not see the id of the run.
        fingerprint: SHA-256 of names, sizes and times of change of the files, and of the digests of
            the records to compare to and of the base that gives the words.
        data: the data section of the configuration.
        config: the whole configuration.
        judged: the same with the run's own limits of the gate.
        champion: folder of the version with which the model is compared.
        reference: folder of the best version so far, which bounds the total loss.
        base: folder of the version with whose weights training begins.
        preparation: the run's settings that preprocess depends on, as JSON.
        training: the run's settings that train depends on, as JSON.
        run: identity of the run.
        begun: digest of the checkpoint of base.
    """
    from components.component_runtime import output_folder, reporting_errors, run_folder
    from components.pod_sizes import PodSizes
    from components.preprocess.inputs import find as stage

    with reporting_errors():
        sizes = PodSizes(
            prepare_memory=prepare_memory,
            worker_cpu=worker_cpu,
            worker_gpus=worker_gpus,
            worker_memory=worker_memory,
            workers=workers,
        )
        run = run_folder(shared)
        folder = output_folder(listing.path, run, "listing")
        found = stage.find_inputs(
            corpus,
            registry=registry,
            model_name=model_name,
            preset=preset,
            settings=settings,
            window_days=window_days,
            times=(scheduled, created),
            listing=folder,
            folder=run,
            sizes=sizes,
        )
    return (folder if folder == listing.path else "listing", *found)


@dsl.component(base_image=container_image(), install_kfp_package=False)
def preprocess(
    listing_folder: str,
    config: str,
    records: dsl.Output[dsl.Dataset],
    data_card: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    run_settings: str = "{}",
    fingerprint: str = "",
    shared: str = "",
) -> None:
    """Turns raw text into shards of encoded records and a vocabulary.

    Args:
        listing_folder: where find_inputs has put the listing of the files to prepare.
        config: the configuration as JSON; its data section is used.
        records: folder of shards, vocabulary and dataset.json, or of LOCATION, which says
            where that folder is.
        data_card: data_card.html, for the KFP page of this task.
        metrics: sizes of the splits, in words, and of the vocabulary; how far the words have
            drifted, if there is something to compare to.
        run_settings: the run's settings as JSON; those of its words, its
            leakage check and its limits of drift are used.
        fingerprint: of the text, so that KFP's cache tells changed text.
        shared: where a cluster's pods mount the shared volume.
    """
    import os
    import shutil

    from components.component_runtime import (
        describe_output,
        output_folder,
        quick_imports,
        reporting_errors,
        run_folder,
        select_numbers,
    )

    with quick_imports():
        from components.preprocess.analysis.drift_limits import apply_limits
        from components.preprocess.main import run
        from components.run_settings import RunSettings
        from model.config import from_json
        from model.data.records import CARD_FILE

    with reporting_errors():
        chosen = RunSettings.from_json(run_settings)
        data = from_json(config).data
        if chosen.compare_to:
            from components.preprocess.analysis.drift import check_other

            check_other(chosen.compare_to, data)
        shared_folder = run_folder(shared)
        folder = output_folder(records.path, shared_folder, "records")
        dataset = run(
            listing=os.path.join(shared_folder, listing_folder),
            vocab=chosen.vocab,
            extend_vocab=chosen.extend_vocab,
            source_root=chosen.source_root,
            leak_records=chosen.leak_check_records,
            records=folder,
            config=data,
        )
        describe_output(records.path, folder, "dataset.json")
        shutil.copyfile(os.path.join(folder, CARD_FILE), data_card.path)
        drift = apply_limits(chosen, folder)
    paths = {f"{split}_words": f"splits.{split}.words" for split in ("train", "valid", "test")}
    figures = select_numbers(dataset, {**paths, "vocabulary": "vocab.size"})
    if drift is not None:
        names = ("new_word_rate", "divergence")
        figures |= select_numbers(drift.to_dict(), {name: name for name in names})
    for name, value in figures.items():
        metrics.log_metric(name, value)
