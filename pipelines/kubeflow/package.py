"""What is sent to Kubeflow Pipelines: the compiled graph and the parameters of a run.

All that can be wrong with it is found here, before any request.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import hashlib
import importlib.metadata
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from components.export.target import check_target
from components.run_settings import choose_config, read_run, setting_names
from model.config import read_config, to_json
from model.errors import InputError
from pipelines.cli import flags
from pipelines.compile import compile_pipeline
from pipelines.graph import MOUNT

_FLAGS = {"registry": "model_registry", "model_name": "model_name", "preset": "preset"}
_FLAGS |= {"workers": "workers", "gpus_per_worker": "worker_gpus"}
"""Flags that stand for a parameter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A compiled graph with what one run is given."""

    path: str
    """The YAML file."""
    spec: Mapping[str, Any]
    """The pipeline spec in it."""
    digest: str
    """SHA-256 of all that the file says, whatever its layout."""
    parameters: Mapping[str, Any]
    """Checked values of the pipeline's parameters that don't stay at their defaults."""

    @property
    def name(self) -> str:
        """The pipeline's name in Kubeflow Pipelines."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def version(self) -> str:
        """The name of the version: the same content has the same, wherever it was compiled."""
        return f"{importlib.metadata.version('charloom')}-{self.digest[:12]}"


@contextlib.contextmanager
def compiled(options: argparse.Namespace) -> Iterator[Package]:
    """Compiles the graph into a temporary folder, as the flags of `add_submission` say.

    Raises:
      InputError: a flag or a parameter is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="charloom-") as folder:
        path = os.path.join(folder, "pipeline.yaml")
        compile_pipeline(path, **flags.compile_settings(options))
        if options.no_cache:
            _forbid_cache(path)
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
        text = json.dumps(documents, sort_keys=True, separators=(",", ":"))
        yield Package(
            path=path,
            spec=documents[0],
            digest=hashlib.sha256(text.encode()).hexdigest(),
            parameters=read_parameters(documents[0], options),
        )


def _forbid_cache(path: str) -> None:
    """Takes the cache from all tasks; the SDK's own switch reaches the outermost ones only."""
    with open(path, encoding="utf-8") as file:
        documents = list(yaml.safe_load_all(file))
    components = [documents[0]["root"], *documents[0]["components"].values()]
    for component in components:
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump_all(documents, file, sort_keys=True)


def read_parameters(spec: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the values that flags give, by the types that the compiled graph declares.

    Raises:
      InputError: a parameter is unknown, given twice, or of the wrong type.
    """
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    given: dict[str, tuple[str, str]] = {}  # name: text, and how it was given
    for flag, name in _FLAGS.items():
        if getattr(options, flag) is not None:
            given[name] = getattr(options, flag), f"--{flag.replace('_', '-')}"
    if options.config:
        given["preset"] = to_json(read_config(options.config)), "--config"
    if options.input:
        given["corpus"] = json.dumps(options.input), "--input"
    if settings := flags.list_settings(options):
        given["settings"] = json.dumps(settings), "--set"
    for setting in options.param:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(f"--param {setting!r} has no '='; write it as NAME=VALUE")
        if name in given:
            raise InputError(f"{name} is given twice: by {given[name][1]} and by --param; use one")
        given[name] = text, "--param"
    values = {}
    for name, (text, source) in given.items():
        if name not in declared:
            raise InputError(
                f"{source} {name}: the pipeline has no such parameter; {_hint(name, declared)}it "
                f"has {', '.join(sorted(declared))}"
            )
        kind = declared[name]["parameterType"]
        values[name] = _value(text, kind, f"{source} {name}" if source == "--param" else source)
    source = "--set" if given.get("settings", ("", ""))[1] == "--set" else "settings"
    defaults = {name: one.get("defaultValue") for name, one in declared.items()}
    _check_values(defaults | values, source=source)
    return values


def _hint(name: str, declared: Iterable[str]) -> str:
    """Returns what a wrong name of a parameter may have meant."""
    near = difflib.get_close_matches(name, declared, n=1)
    near += [one for one in declared if one.endswith(f"_{name}")]
    near += [f"--set {one}" for one in setting_names() if one.split(".")[1] == name]
    return f"did you mean {near[0]}? " if near else ""


def _check_values(values: Mapping[str, Any], *, source: str) -> None:
    """Raises InputError for what only a late step would notice.

    Args:
      values: of all parameters.
      source: where the settings come from.
    """
    check_target(values["model_registry"], values["model_name"], mount=MOUNT)
    read_run(choose_config(values["preset"]), values["settings"], source=source)
    for name, least in (("workers", 1), ("worker_gpus", 0), ("corpus_window_days", 1)):
        if values[name] < least:
            raise InputError(f"{name} is {values[name]:g}; it must be at least {least}")
    hours = values["worker_deadline_hours"]
    if hours <= 0:
        raise InputError(f"worker_deadline_hours is {hours:g}; it must be above 0")


def _value(text: str, kind: str, source: str) -> Any:
    """Returns a parameter's value by its type in the compiled graph."""
    parse, wanted = _PARSERS.get(kind, (str, "a text"))
    try:
        return parse(text)
    except ValueError:
        raise InputError(f"{source} is {text!r}; it must be {wanted}") from None


def _boolean(text: str) -> bool:
    known = {"true": True, "false": False}
    if text.strip().lower() not in known:
        raise ValueError(text)
    return known[text.strip().lower()]


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _json(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = json.loads(text)
        if not isinstance(value, kind):
            raise ValueError(text)
        return value

    return parse


_PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "NUMBER_INTEGER": (int, "a whole number"),
    "NUMBER_DOUBLE": (_number, "a number"),
    "BOOLEAN": (_boolean, "true or false"),
    "LIST": (_json(list), 'a JSON list, as in ["a", "b"]'),
    "STRUCT": (_json(dict), 'a JSON object, as in {"key": "value"}'),
}
