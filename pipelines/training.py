"""The graph: preprocess, train, evaluate, then export or report the rejection.

`charloom run` executes this very object and `charloom compile` writes it as YAML. No
`from __future__ import annotations` here: KFP reads the annotations as objects.
"""

from typing import NamedTuple

from kfp import dsl

from components.evaluate.component import evaluate, report_rejection
from components.evaluate.gate import PASSED
from components.export.component import export
from components.preprocess.component import preprocess
from components.train.component import train
from model.config import to_json
from model.presets import demo

DEFAULT_CONFIG = " ".join(to_json(demo()).split())
"""Shown in the form of KFP, where all fields can be read and changed. One line, as kfp 2.17.3
writes defaults into a comment of the YAML without marking a second line as one."""


class Outputs(NamedTuple):
    """What the whole graph hands out."""

    verdict: str
    version: str
    records: dsl.Dataset
    workdir: dsl.Model
    report: dsl.Artifact
    page: dsl.HTML


@dsl.pipeline(name="train-language-model", display_name="Train a language model")
def train_language_model(
    inputs: str,
    registry: str,
    model_name: str = "lm",
    config: str = DEFAULT_CONFIG,
    workers: int = 1,
    vocab: str = "",
) -> Outputs:
    """Trains a joint word and character language model on raw text, evaluates it, and publishes it if it passes the gate.

    Args:
        inputs: Text files to learn from, as a JSON list of names and glob patterns, for
            instance ["/data/corpus/*.txt"].
        registry: Folder in which versions of the model are published.
        model_name: Name of the model in the registry.
        config: The whole configuration as JSON; the default is the preset demo.
        workers: Number of worker processes that train together.
        vocab: File of the words of the vocabulary, one a line; if empty, the text gives them.

    Returns:
        verdict: PASSED or REJECTED.
        version: Path of the published version, empty if rejected.
        records: Encoded text, vocabulary and dataset.json.
        workdir: Checkpoints, TensorBoard events and worker logs.
        report: Folder of report.json and report.html.
        page: The report as a page.
    """
    # KFP's cache would know the text by its name only, and take changed text for the same.
    prepared = preprocess(inputs=inputs, config=config, vocab=vocab).set_display_name("Preprocess")
    prepared.set_caching_options(enable_caching=False)
    records = prepared.outputs["records"]
    trained = train(records=records, config=config, workers=workers).set_display_name("Train")
    workdir = trained.outputs["workdir"]
    evaluated = evaluate(records=records, workdir=workdir, config=config).set_display_name(
        "Evaluate"
    )
    report = evaluated.outputs["report"]
    # If and Else together: kfp.local silently skips a lone top-level If on a named output.
    with dsl.If(evaluated.outputs["verdict"] == PASSED, name="passed"):
        exported = export(
            records=records, workdir=workdir, report=report, registry=registry, name=model_name
        ).set_display_name("Export")
        exported.set_caching_options(enable_caching=False)  # its effect is in the registry
    with dsl.Else(name="rejected"):
        rejected = report_rejection(report=report).set_display_name("Report the rejection")
    return Outputs(
        verdict=evaluated.outputs["verdict"],
        version=dsl.OneOf(exported.outputs["version"], rejected.outputs["version"]),
        records=records,
        workdir=workdir,
        report=report,
        page=evaluated.outputs["page"],
    )
