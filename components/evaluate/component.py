"""The KFP components of the evaluate stage: the report, and the notice of a rejection.

No `from __future__ import annotations` here: KFP reads the annotations as objects. KFP ships only a
function's source, so bodies import everything they need.
"""

from typing import NamedTuple

from kfp import dsl

from components.component_runtime import container_image


@dsl.component(base_image=container_image(), install_kfp_package=False)
def evaluate(
    records: dsl.Input[dsl.Dataset],
    workdir: dsl.Input[dsl.Model],
    config: str,
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    champion: str = "",
    reference: str = "",
    identity: str = "",
    shared: str = "",
) -> NamedTuple("Evaluated", [("verdict", str)]):  # type: ignore[valid-type]
    """Scores every test word by the full softmax and applies the gate.

    Args:
        records: output of preprocess.
        workdir: output of train.
        config: the whole configuration as JSON; its gate section is used.
        report: folder of report.json and report.html, or of report.json and LOCATION, which names
            that folder.
        page: report.html, for the KFP page of this task.
        summary: report.md, likewise.
        metrics: test perplexities of the model and the baselines, and the model's relative
            perplexity increase over the champion and over the best version so far.
        champion: folder of the version to compare the model with; empty for none.
        reference: folder of the best version so far; empty for none.
        identity: the run's identity, by which its published version is recognised.
        shared: mount path of the shared volume in a cluster's pods.

    Returns:
        verdict: PASSED or REJECTED.
    """
    import os
    import shutil

    from components.component_runtime import (
        describe_output,
        input_folder,
        output_folder,
        quick_imports,
        reporting_errors,
        run_folder,
        select_numbers,
    )

    with quick_imports():
        from components.evaluate.main import run
        from model.config import from_json

    with reporting_errors():
        folder = output_folder(report.path, run_folder(shared), "report")
        result = run(
            records=input_folder(records.path),
            workdir=input_folder(workdir.path),
            report=folder,
            config=from_json(config),
            champion=champion,
            reference=reference,
            identity=identity,
        )
        describe_output(report.path, folder, "report.json")
    shutil.copyfile(os.path.join(folder, "report.html"), page.path)
    shutil.copyfile(os.path.join(folder, "report.md"), summary.path)
    paths = {
        "test_perplexity": "splits.test.perplexity",
        "unigram_perplexity": "baseline.unigram.perplexity",
        "bigram_perplexity": "baseline.bigram.perplexity",
        "bits_per_character": "splits.test.bits_per_character",
        "change_from_champion": "verdict.comparison.perplexity_change",
        "change_from_reference": "verdict.reference.perplexity_change",
    }
    for name, value in select_numbers(result, paths).items():
        metrics.log_metric(name, value)
    return (str(result["verdict"]["status"]),)


@dsl.component(base_image=container_image(), install_kfp_package=False)
def report_rejection(
    report: dsl.Input[dsl.Artifact], rejection: dsl.Output[dsl.Markdown]
) -> NamedTuple("Rejected", [("version", str)]):  # type: ignore[valid-type]
    """Reports why the gate rejected a model; nothing is published.

    Args:
        report: output of evaluate.
        rejection: the reasons, for the KFP page of this task.

    Returns:
        version: empty, as there is no new version.
    """
    import json
    import os

    with open(os.path.join(report.path, "report.json"), encoding="utf-8") as file:
        verdict = json.load(file)["verdict"]
    lines = [f"- {' '.join(str(reason).split())}" for reason in verdict["reasons"]]
    with open(rejection.path, "w", encoding="utf-8") as file:
        file.write("\n".join(["# Not published: the gate rejected the model", "", *lines, ""]))
    print("\n".join(["rejected by the gate, nothing is published:", *lines]), flush=True)
    return ("",)
