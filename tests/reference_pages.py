"""Writes docs/cli.md, config.md and parameters.md, from parsers, fields' docstrings and the pipeline.

`make docs` runs it; `test_reference_pages.py` compares what is committed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from google.protobuf import json_format

from components.run_settings import RunSettings
from model.config import Config
from model.field_docs import field_docs
from model.field_limits import field_limits
from model.presets import PRESETS
from pipelines.cli.main import build_parser
from pipelines.graph import train_language_model

DOCS = Path(__file__).resolve().parent.parent / "docs"
SECTIONS = {
    "data": "how raw text becomes records",
    "model": "sizes of the network",
    "train": "how it is trained",
    "gate": "what a model must achieve to be published",
}
ELSEWHERE = {"-h", "--help", "--debug", "--version"}
"""Described once, at the top of the page."""


def cell(text: str) -> str:
    """Returns text as a cell of a table; a `<` outside of code would begin a tag."""
    text = text.replace("|", "\\|")
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Returns the lines of a table, and an empty one."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(cell, line))} |" for line in lines] + [""]


# The command line


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Returns the parsers of a parser's commands by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields the parsers of all commands below one, in the order of --help."""
    for child in subcommands(parser).values():
        yield child
        yield from walk(child)


def describe_value(action: argparse.Action) -> str:
    """Returns what stands after a flag, or in place of a positional argument."""
    if action.nargs == 0:
        return ""
    choices = "|".join(map(str, action.choices)) if action.choices else ""
    name = str(action.metavar or choices or action.dest.upper())
    return f"{name}..." if action.nargs in ("+", "*") else name


def describe_arguments(parser: argparse.ArgumentParser) -> list[list[str]]:
    """Returns a row for each argument: how to write it, and what it means."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or ELSEWHERE & {*action.option_strings}:
            continue
        text = (action.help or "") % {"default": action.default, "prog": parser.prog}
        value = describe_value(action)
        written = " ".join(part for part in (", ".join(action.option_strings), value) if part)
        if action.option_strings and action.required:
            text = f"required; {text}"
        elif not action.option_strings and action.nargs in ("?", "*"):
            written = f"[{written}]"
        rows.append([f"`{written}`", text])
    return rows


def cli_page() -> str:
    """Returns docs/cli.md."""
    parser = build_parser()
    lines = [
        "# Command line",
        "",
        "Generated from the argument parsers by `make docs`; `charloom COMMAND --help` prints the same.",
        "",
        f"{parser.description}",
        "`charloom --version` prints the version; every command takes `--debug`, which shows tracebacks.",
        "",
        f"{str(parser.epilog)[:1].upper()}{str(parser.epilog)[1:]}.",
        "",
    ]
    for command in walk(parser):
        lines += [f"## {command.prog}", "", command.description or "", ""]
        rows = describe_arguments(command)
        names = ", ".join(f"`{name}`" for name in subcommands(command))
        lines += [f"Commands: {names}", ""] if names else []
        lines += table(["argument", "meaning"], rows) if rows else []
        if command.epilog:
            lines += ["```text", command.epilog.strip(), "```", ""]
    return "\n".join(lines)


# The configuration


def show_type(hint: Any) -> str:
    """Returns the name of a field's type."""
    items = get_args(hint)
    return f"list of {items[0].__name__}" if items else str(hint.__name__)


def show(value: Any) -> str:
    """Returns a value as --set takes it."""
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def preset_rows(section: str) -> list[list[str]]:
    """Returns a row for each field of a section that some preset changes."""
    default = getattr(Config(), section)
    presets = [getattr(preset(), section) for preset in PRESETS.values()]
    rows = []
    for field in dataclasses.fields(default):
        usual = getattr(default, field.name)
        values = [getattr(preset, field.name) for preset in presets]
        if any(value != usual for value in values):
            cells = [show(value) if value != usual else "" for value in values]
            rows.append([f"`{section}.{field.name}`", *cells])
    return rows


def config_page() -> str:
    """Returns docs/config.md."""
    lines = [
        "# Configuration",
        "",
        "Generated from the field docstrings of `model/config.py` by `make docs`.",
        "",
        "`--preset NAME` chooses a whole configuration, `--config FILE` the `config.json` of an earlier run, and",
        "`--set section.field=value` changes one field. A value is JSON or plain text; a list is written `1,2,3`.",
        "",
    ]
    hints = get_type_hints(Config)
    for section, cls in hints.items():
        lines += [f"## {section}: {SECTIONS[section]}", ""]
        types, docs, default = get_type_hints(cls), field_docs(cls), cls()
        limits = field_limits(cls)
        rows = [
            [
                f"`{section}.{name}`",
                show_type(types[name]),
                show(getattr(default, name)),
                str(limits.get(name, "")),
                text,
            ]
            for name, text in docs.items()
        ]
        lines += table(["field", "type", "default", "allowed", "meaning"], rows)
    lines += ["## Presets", ""]
    rows = [[f"`{name}`", str(preset.__doc__).split("\n")[0]] for name, preset in PRESETS.items()]
    lines += table(["preset", "for"], rows)
    changed = [row for section in hints for row in preset_rows(section)]
    lines += ["Fields that differ from the default:", ""]
    lines += table(["field", *(f"`{name}`" for name in PRESETS)], changed)
    return "\n".join(lines)


# The parameters


def show_default(value: Any) -> str:
    """Returns the default of a parameter or a setting; nothing for an empty text."""
    whole = isinstance(value, float) and value.is_integer()  # KFP knows no whole numbers
    return "" if value == "" else show(int(value) if whole else value)


def parameters_page() -> str:
    """Returns docs/parameters.md."""
    lines = [
        "# Parameters of a run",
        "",
        "Generated from the pipeline and the field docstrings of `components/run_settings.py` by `make docs`.",
        "",
        "## Parameters of the pipeline",
        "",
        "KFP's form shows them in this order. `charloom submit` and `charloom schedule create` have flags for",
        "some of them; `--param NAME=VALUE` sets any ([scheduling.md](scheduling.md)).",
        "",
    ]
    declared = train_language_model.pipeline_spec.root.input_definitions.parameters
    defaults = {
        name: json_format.MessageToDict(one.default_value) for name, one in declared.items()
    }
    rows = [
        [f"`{name}`", show_default(defaults[name]), " ".join(declared[name].description.split())]
        for name in sorted(declared)
    ]
    lines += table(["parameter", "default", "meaning"], rows)
    lines += [
        "## Settings",
        "",
        "`settings` is a JSON list of `section.field=value`: the value as JSON or as plain text, a list as",
        "`1,2,3`. It takes all fields of the [configuration](config.md) and, as the section `run`, those of the table",
        "below. On the command line the same texts follow `--set`, and a field of `run` has a flag of its own:",
        "`run.warm_start` is `--warm-start`. The first step of a run checks them all, and names the nearest fields",
        "on a typo.",
        "",
    ]
    run, limits = RunSettings(), field_limits(RunSettings)
    rows = [
        [f"`run.{name}`", show_default(getattr(run, name)), str(limits.get(name, "")), text]
        for name, text in field_docs(RunSettings).items()
    ]
    lines += table(["field", "default", "allowed", "meaning"], rows)
    return "\n".join(lines)


PAGES = {"cli.md": cli_page, "config.md": config_page, "parameters.md": parameters_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}")
