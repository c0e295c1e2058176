"""The commands for the whole pipeline on this machine: run, demo, and compile."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from components.export.lineage import CHAMPION
from components.export.registry import check_name, find_model
from components.quiet_tensorflow import import_tensorflow
from components.run_settings import RunSettings
from model.config import Config
from model.errors import RejectedError
from model.text.vocab import read_words
from pipelines.cli import flags
from pipelines.cli.shared import Add, read_settings


def add_commands(add: Add, commands: Any) -> None:
    """Adds the commands; `add` creates a command's parser."""
    run = add(commands, "run", _run, "Run the whole pipeline on this machine.")
    flags.add_input(run)
    run.add_argument("--root", required=True, metavar="DIR", help="folder for all output")
    run.add_argument("--name", default="lm", help="the model's name in the registry (default: lm)")
    flags.add_run_settings(run, flags.RUN_FIELDS)
    flags.add_require_improvement(run)
    flags.add_workers(run, default=2)
    flags.add_data(run)
    flags.add_config(run)

    demo = add(commands, "demo", _demo, "Run the whole pipeline on text included in Python.")
    demo.add_argument(
        "--root",
        default="charloom-demo",
        metavar="DIR",
        help="folder for all output (default: charloom-demo)",
    )
    flags.add_workers(demo, default=2)
    flags.add_config(demo)

    compiler = add(commands, "compile", _compile, "Write the pipeline as YAML for Kubeflow.")
    flags.add_compile(compiler)


def _run(options: argparse.Namespace) -> None:
    config, settings = read_settings(options)
    _run_graph(
        options.input,
        root=options.root,
        config=config,
        settings=settings,
        workers=options.workers,
        name=options.name,
    )


def _run_graph(
    inputs: Sequence[str],
    *,
    root: str,
    config: Config,
    settings: RunSettings,
    workers: int,
    name: str,
) -> str:
    """Runs the pipeline and prints where its outputs are; returns the new version's folder."""
    from components.preprocess.inputs.listing import check_names

    check_name(name)
    check_names(inputs)
    if settings.vocab:
        read_words(settings.vocab)
    if settings.warm_start not in ("", CHAMPION):
        find_model(settings.warm_start)
    from pipelines.local.runner import run_pipeline

    result = run_pipeline(
        inputs=inputs,
        root=root,
        config=config,
        settings=settings,
        workers=workers,
        model_name=name,
    )
    print(f"records:  {result.records}")
    print(f"workdir:  {result.workdir}")
    print(f"report:   {result.report_html}")
    if result.registry_version is None:
        raise RejectedError(f"REJECTED: {'; '.join(result.reasons)}")
    print(f"verdict:  {result.verdict}")
    print(f"registry: {result.registry_version}", flush=True)
    return result.registry_version


def _demo(options: argparse.Namespace) -> None:
    from pipelines.local.demo import EXAMPLE, write_corpus

    config, settings = read_settings(options)
    corpus = write_corpus(os.path.join(options.root, "corpus"))
    version = _run_graph(
        [os.path.join(corpus, "*.txt")],
        root=options.root,
        config=config,
        settings=settings,
        workers=options.workers,
        name="demo",
    )
    import_tensorflow()
    from pipelines.cli import query

    print(f'charloom next --model {version} "{EXAMPLE}"')
    query.print_next_words(query.load(version), EXAMPLE, k=5)


def _compile(options: argparse.Namespace) -> None:
    from pipelines.compile import compile_pipeline

    compile_pipeline(options.output, **flags.compile_settings(options))
    print(f"wrote {options.output}")
