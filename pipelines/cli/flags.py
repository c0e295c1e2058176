"""Flags that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, get_type_hints

from components.run_settings import DEFAULT_PRESET, DEFAULTS, RunSettings
from components.train.training_job import TrainingJob
from model import presets
from model.config import BAD_TEXT, DOCUMENTS, TOKENIZERS
from model.field_docs import field_docs

RUN_FIELDS = tuple(field.name for field in dataclasses.fields(RunSettings))

SPLITS = {"train": "training", "valid": "validation", "test": "test"}

DATA_FLAGS: dict[str, tuple[str, dict[str, Any]]] = {
    "--on-bad-text": ("on_bad_text", {
        "choices": BAD_TEXT, "help": "what to do with a file that is not text (default: error)"}),
    "--encoding": ("encoding", {"help": "text encoding of the input (default: utf-8)"}),
    "--tokenizer": ("tokenizer", {
        "choices": TOKENIZERS, "help": "how to split a line into words; graphemes is for scripts without "
        "spaces, such as Chinese or Thai (default: words)"}),
    "--lowercase": ("lowercase", {
        "action": "store_const", "const": "true", "help": "case-fold all words"}),
    "--no-sentence-marks": ("sentence_marks", {
        "action": "store_const", "const": "false", "help": "don't predict line ends"}),
    "--document": ("document", {
        "choices": DOCUMENTS, "help": "the unit of a document (default: file)"}),
    "--vocab-size": ("vocab_size", {
        "metavar": "N", "help": "maximum vocabulary size, including three special words"}),
    "--min-count": ("min_count", {
        "metavar": "N", "help": "words seen less often in the training split are unknown"}),
}  # fmt: skip
"""Flags that set a field of `DataConfig`: the field, and arguments for `add_argument`."""


def add_input(parser: argparse.ArgumentParser, *, splits: bool = False) -> None:
    """Adds --input and, with `splits`, its alternatives."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "PATH"}
    text = "text files, folders or glob patterns, local or at s3:// or gs://, or @FILE, which lists them"
    if not splits:
        parser.add_argument("--input", required=True, help=text, **many)
        return
    parser.add_argument("--input", default=[], help=f"{text}, split by hash", **many)
    for flag, name in SPLITS.items():
        parser.add_argument(
            f"--{flag}", default=[], help=f"instead of --input: text of the {name} split", **many
        )


def add_run_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Adds a flag for each named field of `RunSettings`, with its docstring as help."""
    kinds, docs = get_type_hints(RunSettings), field_docs(RunSettings)
    for name in names:
        flag, text = f"--{name.replace('_', '-')}", docs[name].replace("`", "")
        if kinds[name] is bool:
            parser.add_argument(flag, action="store_const", const="true", help=text)
            continue
        metavar = {str: "PATH", int: "N", float: "X"}[kinds[name]]
        default = getattr(DEFAULTS, name)
        text += f" (default: {default})" if default else ""
        parser.add_argument(flag, metavar=metavar, help=text)
    if "leak_check_records" in names:
        parser.add_argument(
            "--no-leak-check",
            dest="leak_check_records",
            action="store_const",
            const="0",
            help="don't look for near-duplicates of training text in the other splits",
        )


def add_beam(parser: argparse.ArgumentParser) -> None:
    """Adds Beam's options."""
    parser.add_argument(
        "--beam-workers",
        type=int,
        default=0,
        metavar="N",
        help="processes; 0: as many as there is room for (default: 0)",
    )
    parser.add_argument(
        "--beam-options", default="", metavar="TEXT", help="further options for Beam"
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds options for turning text into words."""
    for flag, (field, arguments) in DATA_FLAGS.items():
        parser.add_argument(flag, dest=field, **arguments)


def list_settings(options: argparse.Namespace) -> list[str]:
    """Returns the settings given by --set and by flags of single fields, in the form of --set."""
    given = {f"data.{field}": getattr(options, field, None) for field, _ in DATA_FLAGS.values()}
    given |= {f"run.{field}": getattr(options, field, None) for field in RUN_FIELDS}
    given["gate.require_improvement"] = getattr(options, "require_improvement", None)
    settings = [f"{name}={value}" for name, value in given.items() if value is not None]
    if given["data.on_bad_text"]:  # set explicitly: no tolerance with it
        settings.append("data.max_stray_bytes=0")
    return [*options.set, *settings]


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Adds the folders written by prepare and train."""
    parser.add_argument("--records", required=True, metavar="DIR", help="written by prepare")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="written by train")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds --report."""
    parser.add_argument("--report", metavar="DIR", help="default: <workdir>/report")


def add_workers(parser: argparse.ArgumentParser, *, default: int) -> None:
    """Adds --workers."""
    parser.add_argument(
        "--workers",
        type=int,
        default=default,
        metavar="N",
        help=f"training processes that share each batch (default: {default})",
    )


def add_waits(parser: argparse.ArgumentParser) -> None:
    """Adds how long workers wait before giving up."""
    for flag, seconds, text in (
        ("--peer-seconds", TrainingJob.peer_seconds, "waits for the others at the start"),
        ("--stall-seconds", TrainingJob.stall_seconds, "may make no progress before it ends"),
    ):
        parser.add_argument(
            flag,
            type=float,
            default=seconds,
            metavar="S",
            help=f"how long a worker {text} (default: {seconds:g})",
        )


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Adds --profile."""
    parser.add_argument(
        "--profile",
        metavar="FIRST:LAST",
        help="trace these steps, such as 100:110, for TensorBoard",
    )


def add_query(parser: argparse.ArgumentParser, verb: str) -> None:
    """Adds the model to query, and the texts."""
    parser.set_defaults(verb=verb)
    parser.add_argument("--model", required=True, metavar="DIR", help="<registry>/<name>/<version>")
    if verb == "next":
        parser.add_argument("text", help="the text to continue")
        return
    if verb == "similar":
        parser.add_argument("text", metavar="WORD", help="any word, known or not")
        return
    parser.add_argument("text", nargs="*", help="texts, each its own document")
    parser.add_argument(
        "--input", metavar="FILE", help="read texts from a file, one per line; - is stdin"
    )


def add_tensorboard(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `charloom tensorboard`."""
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="written by train, or a folder of several"
    )
    parser.add_argument("--port", type=int, default=6006, help="default: 6006; 0: any free one")
    parser.add_argument(
        "--host", default="localhost", help="address to listen on (default: localhost)"
    )


def add_require_improvement(parser: argparse.ArgumentParser) -> None:
    """Adds --require-improvement."""
    parser.add_argument(
        "--require-improvement",
        action="store_const",
        const="true",
        help="reject a model that is not significantly better than the champion",
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    """Adds --set."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override a config field, such as --set train.steps=500; may be repeated",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --preset, --config and --set."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        metavar="NAME",
        help=f"{', '.join(presets.PRESETS)} (default: {DEFAULT_PRESET})",
    )
    source.add_argument("--config", metavar="FILE", help="config.json of an earlier run")
    add_set(parser)


def add_compile(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `charloom compile`."""
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="*.yaml")
    add_image(parser)


def add_image(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for `compile_settings`."""
    parser.add_argument("--image", help="container image of the tasks, with a tag or a digest")
    parser.add_argument(
        "--workspace",
        default="",
        metavar="SIZE",
        help="keep a run's data on a volume of this size, such as 50Gi, that KFP creates for the run "
        "and removes when it succeeds; default: on the claim in its parameter volume",
    )
    parser.add_argument(
        "--storage-class",
        default="",
        metavar="NAME",
        help="storage class of that volume; it must support ReadWriteMany",
    )


def compile_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `compile_pipeline` given as flags."""
    return {name: getattr(options, name) for name in ("image", "workspace", "storage_class")}


def add_kubeflow(parser: argparse.ArgumentParser) -> None:
    """Adds the address of Kubeflow Pipelines, and credentials for it.

    Secrets come from files and the environment, since arguments are visible to all processes.
    """
    parser.add_argument(
        "--host",
        default="",
        metavar="URL",
        help="Kubeflow Pipelines, such as https://kubeflow.example.com/pipeline (default: "
        "$KF_PIPELINES_ENDPOINT; in a pod of the cluster, its service)",
    )
    parser.add_argument(
        "--namespace", default="", metavar="NS", help="your namespace, if there are several"
    )
    parser.add_argument(
        "--token-file",
        default="",
        metavar="FILE",
        help="bearer token, reread for each request (default: $CHARLOOM_KFP_TOKEN, else the "
        "pod's service account token, $KF_PIPELINES_SA_TOKEN_PATH)",
    )
    parser.add_argument(
        "--cookie-file",
        default="",
        metavar="FILE",
        help="cookies of a browser login, such as authservice_session=... "
        "(default: $CHARLOOM_KFP_COOKIE)",
    )
    parser.add_argument(
        "--ca-cert", default="", metavar="FILE", help="CA of the host's TLS certificate"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="don't check the host's TLS certificate"
    )


def add_submission(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of a run on Kubeflow Pipelines; omitted ones keep their defaults."""
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="text files, folders or glob patterns, as the pods see them",
    )
    parser.add_argument(
        "--registry", metavar="DIR", help="folder of all models, as the pods see it"
    )
    parser.add_argument("--model-name", metavar="NAME", help="the model's name in the registry")
    parser.add_argument("--workers", metavar="N", help="number of worker pods")
    parser.add_argument("--gpus-per-worker", metavar="N", help="GPUs per worker")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", metavar="NAME", help=", ".join(presets.PRESETS))
    source.add_argument("--config", metavar="FILE", help="config.json of an earlier run")
    add_set(parser)
    add_data(parser)
    add_require_improvement(parser)
    add_run_settings(parser, RUN_FIELDS)
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other pipeline parameter; may be repeated; an unknown name lists them all",
    )
    add_image(parser)
    parser.add_argument("--no-cache", action="store_true", help="run all steps again")
    parser.add_argument(
        "--experiment",
        default="charloom",
        metavar="NAME",
        help="KFP experiment of the run; created if missing (default: charloom)",
    )
    parser.add_argument(
        "--service-account",
        default="",
        metavar="NAME",
        help="service account of the steps' pods (default: Kubeflow Pipelines' own)",
    )


def add_scheduler_zone(parser: argparse.ArgumentParser) -> None:
    """Adds --scheduler-zone."""
    parser.add_argument(
        "--scheduler-zone",
        default="",
        metavar="ZONE",
        help="time zone in which Kubeflow Pipelines' scheduler reads schedules, which "
        "its administrator sets as cronScheduleTimezone; next times are shown in UTC (default: $CHARLOOM_KFP_TIME_ZONE, else UTC)",
    )
