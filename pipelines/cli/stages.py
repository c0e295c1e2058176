"""The commands for single stages: prepare, train, evaluate, export, and tensorboard."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import Any

from components.export.registry import check_name, find_model
from components.preprocess.analysis.drift_limits import apply_limits
from components.quiet_tensorflow import import_tensorflow
from components.run_settings import PREPARING, TRAINING
from components.train.training_job import TrainingJob
from model.config import read_config, with_overrides
from model.errors import InputError, RejectedError
from model.training.profiler import ProfileSteps
from pipelines.cli import flags, model_flags
from pipelines.cli.shared import Add, read_settings, refuse_sections


def add_commands(add: Add, commands: Any) -> None:
    """Adds the commands; `add` creates a command's parser."""
    prepare = add(commands, "prepare", _prepare, "Turn raw text into records.")
    flags.add_input(prepare, splits=True)
    prepare.add_argument("--records", required=True, metavar="DIR", help="output folder")
    flags.add_run_settings(prepare, PREPARING)
    flags.add_beam(prepare)
    flags.add_data(prepare)
    flags.add_config(prepare)

    train = add(commands, "train", _train, "Train a model, or resume a training.")
    flags.add_folders(train)
    model_flags.add_warm_start(train)
    flags.add_workers(train, default=1)
    flags.add_profile(train)
    flags.add_run_settings(train, TRAINING)
    flags.add_waits(train)
    flags.add_config(train)

    evaluate = add(
        commands,
        "evaluate",
        _evaluate,
        "Score the test split; exit 3 if the gate rejects the model.",
    )
    flags.add_folders(evaluate)
    flags.add_report(evaluate)
    model_flags.add_champion(evaluate)
    flags.add_require_improvement(evaluate)
    flags.add_set(evaluate)

    export = add(commands, "export", _export, "Publish a model that passed the gate.")
    flags.add_folders(export)
    flags.add_report(export)
    export.add_argument("--registry", required=True, metavar="DIR", help="folder of all models")
    export.add_argument(
        "--name", default="lm", help="the model's name in the registry (default: lm)"
    )
    model_flags.add_budget(export)
    model_flags.add_precision(export)

    board = add(commands, "tensorboard", _tensorboard, "Watch trainings in a browser.")
    flags.add_tensorboard(board)


def _prepare(options: argparse.Namespace) -> None:
    config, settings = read_settings(options)
    import_tensorflow()
    from components.preprocess.analysis.drift import check_other
    from components.preprocess.main import run

    if settings.compare_to:
        check_other(settings.compare_to, config.data)
    run(
        inputs=options.input,
        train=options.train,
        valid=options.valid,
        test=options.test,
        vocab=settings.vocab,
        extend_vocab=settings.extend_vocab,
        source_root=settings.source_root,
        leak_records=settings.leak_check_records,
        records=options.records,
        config=config.data,
        beam_workers=options.beam_workers,
        beam_options=shlex.split(options.beam_options),
    )
    apply_limits(settings, options.records)


def _train(options: argparse.Namespace) -> None:
    config, settings = read_settings(options)
    refuse_sections(options.set, "train", allowed=("model", "train", "gate"))
    job = TrainingJob(
        records=options.records,
        workdir=options.workdir,
        workers=options.workers,
        warm_start=find_model(settings.warm_start) if settings.warm_start else "",
        profile=ProfileSteps.parse(options.profile) if options.profile is not None else None,
        max_restarts=settings.max_restarts,
        peer_seconds=options.peer_seconds,
        stall_seconds=options.stall_seconds,
    )
    from components.train.main import run

    result = run(job, config)
    value = result["valid_perplexity"]
    reached = f", validation perplexity {value:.2f}" if value else ""
    print(f"trained: best checkpoint {result['checkpoint']}{reached}")


def _evaluate(options: argparse.Namespace) -> None:
    path = os.path.join(options.workdir, "config.json")
    if not os.path.exists(path):
        raise InputError(f"{options.workdir} has no training; run charloom train")
    config = with_overrides(read_config(path), flags.list_settings(options))
    refuse_sections(options.set, "evaluate", allowed=("gate",))
    champion, reference = model_flags.find_compared(options)
    import_tensorflow()
    from components.evaluate.main import run

    report = options.report or os.path.join(options.workdir, "report")
    result = run(
        records=options.records,
        workdir=options.workdir,
        report=report,
        config=config,
        champion=champion,
        reference=reference,
    )
    verdict = result["verdict"]
    if verdict["status"] != "PASSED":
        raise RejectedError(f"REJECTED: {'; '.join(verdict['reasons'])}")


def _export(options: argparse.Namespace) -> None:
    check_name(options.name)
    import_tensorflow()
    from components.export.checking import Budget
    from components.export.main import run

    asked = {"latency_ms": options.max_latency_ms, "memory_mb": options.max_memory_mb}
    limits = {name: value for name, value in asked.items() if value is not None}
    run(
        records=options.records,
        workdir=options.workdir,
        report=options.report or os.path.join(options.workdir, "report"),
        registry=options.registry,
        name=options.name,
        budget=Budget(**limits) if limits else None,
        precision=options.precision,
    )


def _tensorboard(options: argparse.Namespace) -> None:
    from pipelines.cli.tensorboard import find_logdir, serve

    logdir = find_logdir(options.workdir)
    import_tensorflow()
    serve(logdir, host=options.host, port=options.port)
