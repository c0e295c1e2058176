"""Builds what is sent to Kubeflow Pipelines: the compiled graph and a run's parameters.

Errors in it are found here, before any request.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from components.export.registry import RegisteredModel
from components.export.target import check_target
from components.pod_sizes import PodSizes
from components.run_settings import choose_config, read_run, setting_names
from model.config import read_config, to_json
from model.errors import InputError
from model.files import scratch_folder
from pipelines.cli import flags
from pipelines.compile import check_image, compile_pipeline
from pipelines.graph import MOUNT

_FLAGS = {"registry": "model_registry", "model_name": "model_name", "preset": "preset"}
_FLAGS |= {"workers": "workers", "gpus_per_worker": "worker_gpus"}
"""Flags that set a parameter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A compiled graph with one run's parameters."""

    path: str
    """The YAML file."""
    spec: Mapping[str, Any]
    """The pipeline spec in the file."""
    digest: str
    """SHA-256 of the file's content, independent of layout."""
    parameters: Mapping[str, Any]
    """Validated values of the pipeline's parameters that are not at their defaults."""

    @property
    def name(self) -> str:
        """The pipeline's name in Kubeflow Pipelines."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def version(self) -> str:
        """The version's name: the same content has the same name wherever it was compiled."""
        return f"{importlib.metadata.version('charloom')}-{self.digest[:12]}"


@contextlib.contextmanager
def compiled(options: argparse.Namespace) -> Iterator[Package]:
    """Compiles the graph into a temporary folder, according to the flags of `add_submission`.

    Raises:
      InputError: a flag or a parameter is wrong.
    """
    with scratch_folder() as folder:
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
    """Disables caching for all tasks; the SDK's own switch affects only the outermost ones."""
    with open(path, encoding="utf-8") as file:
        documents = list(yaml.safe_load_all(file))
    components = [documents[0]["root"], *documents[0]["components"].values()]
    for component in components:
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump_all(documents, file, sort_keys=True)


def read_parameters(spec: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the values given by flags, with the types declared in the compiled graph.

    Raises:
      InputError: a parameter is unknown, given twice, or of the wrong type.
    """
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    given: dict[str, tuple[str, str]] = {}  # name: text and source
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
    near = difflib.get_close_matches(name, declared, n=1)
    near += [one for one in declared if one.endswith(f"_{name}")]
    near += [f"--set {one}" for one in setting_names() if one.split(".")[1] == name]
    return f"did you mean {near[0]}? " if near else ""


def _check_values(values: Mapping[str, Any], *, source: str) -> None:
    """Raises InputError for errors that only a late step would notice.

    Args:
      values: values of all parameters.
      source: where the settings come from.
    """
    check_target(RegisteredModel(values["model_registry"], values["model_name"]), mount=MOUNT)
    config, _ = read_run(choose_config(values["preset"]), values["settings"], source=source)
    sizes = {field.name: values[field.name] for field in dataclasses.fields(PodSizes)}
    PodSizes(**sizes).check(config)
    if values["worker_image"]:
        check_image(values["worker_image"], name="worker_image")
    days = values["corpus_window_days"]
    if days < 1:
        raise InputError(f"corpus_window_days is {days}; it must be at least 1")
    hours = values["worker_deadline_hours"]
    if hours <= 0:
        raise InputError(f"worker_deadline_hours is {hours:g}; it must be above 0")


def _value(text: str, kind: str, source: str) -> Any:
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
    "LIST": (_json(list), 'a JSON list, such as ["a", "b"]'),
    "STRUCT": (_json(dict), 'a JSON object, such as {"key": "value"}'),
}
