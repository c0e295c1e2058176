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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from components.export.registry import RegisteredModel
from components.export.target import check_target
from components.preprocess.analysis.drift_limits import Comparison
from components.preprocess.inputs.warm_start_options import Start
from model import presets
from model.config import read_config, to_json, with_overrides
from model.errors import InputError
from pipelines.cli import flags
from pipelines.compile import compile_pipeline
from pipelines.graph import MOUNT

_FLAGS = {"registry": "registry", "model_name": "model-name", "vocab": "vocab"}
_FLAGS |= {"source_root": "source-root", "workers": "workers", "gpus_per_worker": "gpus-per-worker"}
"""Parameters that have a flag of their own."""


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
    for name, flag in _FLAGS.items():
        value = getattr(options, name)
        if value is not None:
            given[name] = value, f"--{flag}"
    if options.input:
        given["inputs"] = json.dumps(options.input), "--input"
    given |= _config_parameters(options)
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
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"{source} {name}: the pipeline has no such parameter; {hint}it has "
                f"{', '.join(sorted(declared))}"
            )
        kind = declared[name]["parameterType"]
        values[name] = _value(text, kind, f"{source} {name}" if source == "--param" else source)
    _check_values({name: one.get("defaultValue") for name, one in declared.items()} | values)
    return values


def _check_values(values: Mapping[str, Any]) -> None:
    """Raises InputError for what only a late step would notice."""
    check_target(RegisteredModel(values["registry"], values["model_name"]), mount=MOUNT)
    Start(
        warm_start=values["warm_start"],
        steps_share=values["steps_share"],
        extend_vocab=values["extend_vocab"],
    ).check(vocab=values["vocab"])
    Comparison(
        compare_to=values["compare_to"],
        max_new_word_rate=values["max_new_word_rate"],
        max_divergence=values["max_divergence"],
    )
    if values["max_perplexity"]:
        with_overrides(
            presets.get_preset(flags.DEFAULT_PRESET),
            [f"gate.max_perplexity={values['max_perplexity']!r}"],
        )
    for name, least in (("workers", 1), ("gpus_per_worker", 0), ("window_days", 1)):
        if values[name] < least:
            raise InputError(f"{name} is {values[name]:g}; it must be at least {least}")
    if values["deadline_hours"] <= 0:
        raise InputError(f"deadline_hours is {values['deadline_hours']:g}; it must be above 0")


def _config_parameters(options: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Returns preset or config: a preset by its name, as long as nothing of it is changed."""
    settings = [*options.set, *flags.data_settings(options)]
    if options.config or settings:
        name = options.preset or flags.DEFAULT_PRESET
        config = read_config(options.config) if options.config else presets.get_preset(name)
        source = "--config" if options.config else "--set and flags of the text"
        return {"config": (to_json(with_overrides(config, settings)), source)}
    if options.preset:
        presets.get_preset(options.preset)
        return {"preset": (options.preset, "--preset")}
    return {}


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
