"""The commands of the registry: list, show, promote, rollback, rebase, pin, unpin and gc."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from components.export import promoting
from components.export.manifest import read_manifest, verify
from components.export.registry import RegisteredModel
from model.errors import CharloomError, InputError
from model.files import read_json
from pipelines.cli.shared import Add
from pipelines.cli.streams import IS_PRODUCT

KEEP = 5


def add_commands(add: Add, commands: Any) -> None:
    """Adds the commands; `add` creates a command's parser."""
    registry = add(
        commands, "registry", _list, "Inspect, promote and roll back published versions."
    )
    actions = registry.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = add(actions, "list", _list, "List the models of a registry, or a model's versions.")
    listing.add_argument("path", metavar="DIR", help="<registry> or <registry>/<name>")
    _add_json(listing)
    listing.set_defaults(**{IS_PRODUCT: True})

    show = add(actions, "show", _show, "Show a version, and check its files.")
    _add_model(show)
    show.add_argument(
        "version", nargs="?", type=int, help="the version's number (default: the champion)"
    )
    _add_json(show)

    promote = add(actions, "promote", _promote, "Make a version the champion.")
    _add_version(promote)
    rollback = add(actions, "rollback", _rollback, "Restore the previous champion.")
    _add_model(rollback)
    rebase = "Make a version the reference that limits the drift of a chain of champions."
    _add_version(add(actions, "rebase", _rebase, rebase))
    _add_version(add(actions, "pin", _pin, "Keep a version from being collected."))
    _add_version(add(actions, "unpin", _unpin, "Allow a version to be collected again."))

    gc = add(
        actions, "gc", _collect, "Remove old versions; champion, reference and pinned ones stay."
    )
    _add_model(gc)
    gc.add_argument(
        "--keep",
        type=int,
        default=KEEP,
        metavar="N",
        help=f"number of newest versions to keep (default: {KEEP})",
    )
    gc.add_argument("--dry-run", action="store_true", help="only print what would be removed")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="<registry>/<name>")


def _add_version(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("version", type=int, help="its number")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _find_model(path: str) -> RegisteredModel:
    """Returns the model at a folder `<registry>/<name>`.

    Raises:
      InputError: there is no model.
    """
    model = RegisteredModel.at(os.path.normpath(path))
    if not model.versions():
        raise InputError(f"{path} has no published model; name <registry>/<name>")
    return model


def _describe_versions(model: RegisteredModel) -> list[dict[str, Any]]:
    pointer, pins = model.read_pointer(), promoting.read_pins(model)
    champion = pointer.version if pointer else None
    reference = pointer.reference.version if pointer and pointer.reference else None
    rows = []
    for version in model.versions():
        folder = model.version_folder(version)
        files = ("report.json", "MANIFEST.json")
        report, manifest = (read_json(os.path.join(folder, file)) for file in files)
        test = report.get("splits", {}).get("test", {})
        rows.append(
            {
                "version": version,
                "champion": version == champion,
                "reference": version == reference,
                "pinned": version in pins,
                "created": manifest.get("created"),
                "test_perplexity": test.get("perplexity"),
                "bits_per_character": test.get("bits_per_character"),
                "characters_estimated": test.get("characters_estimated", True),
                "test_words": test.get("words"),
                "checkpoint": manifest.get("digests", {}).get("checkpoint"),
                "path": folder,
            }
        )
    return rows


def _list(options: argparse.Namespace) -> None:
    path = os.path.normpath(options.path)
    if not os.path.isdir(path):
        raise InputError(f"{path} is not a folder; name a registry, or <registry>/<name>")
    models = [RegisteredModel.at(path)]
    if not models[0].versions():
        there = (RegisteredModel(path, name) for name in sorted(os.listdir(path)))
        models = [model for model in there if model.versions()]
    if not models:
        raise InputError(f"{path} has no published models; charloom export publishes one")
    rows = [{"model": model.name, **row} for model in models for row in _describe_versions(model)]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("model\tversion\t\tcreated\ttest perplexity\tbits per character")
    for row in rows:
        marks = [mark for mark in ("champion", "reference", "pinned") if row[mark]]
        print(
            f"{row['model']}\t{row['version']}\t{' '.join(marks)}\t{row['created'] or '-'}\t"
            f"{_figure(row['test_perplexity'], 2)}\t{_figure(row['bits_per_character'], 3)}"
            + (" (estimated)" if row["characters_estimated"] else "")
        )


def _figure(value: Any, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "-"


def _show(options: argparse.Namespace) -> None:
    model, version = _find_model(options.model), options.version
    if version is None and (champion := model.champion()):
        version = champion.version
    rows = [row for row in _describe_versions(model) if row["version"] == version]
    if not rows:
        wanted = "no champion" if version is None else f"no version {version}"
        raise InputError(f"{options.model} has {wanted}; charloom registry list shows them")
    folder = rows[0]["path"]
    problems = verify(folder)
    if options.json:
        manifest = read_manifest(folder)
        print(
            json.dumps({"model": model.name, **rows[0], "problems": problems, **manifest}, indent=2)
        )
    else:
        for field, value in rows[0].items():
            print(f"{field}: {value}")
        print(f"files: {len(read_manifest(folder)['files'])}")
        card = os.path.join(folder, "model_card.md")
        if os.path.exists(card):
            with open(card, encoding="utf-8") as file:
                print("\n" + file.read(), end="")
    if problems:
        raise CharloomError(f"{folder} is damaged: {'; '.join(problems)}")


def _promote(options: argparse.Namespace) -> None:
    before = promoting.promote(_find_model(options.model), options.version)
    print(f"champion of {options.model}: version {options.version} (before: {before or 'none'})")


def _rollback(options: argparse.Namespace) -> None:
    before, now = promoting.rollback(_find_model(options.model))
    print(f"champion of {options.model}: version {now} (before: {before})")


def _rebase(options: argparse.Namespace) -> None:
    before = promoting.rebase(_find_model(options.model), options.version)
    print(f"reference of {options.model}: version {options.version} (before: {before or 'none'})")


def _pin(options: argparse.Namespace) -> None:
    promoting.pin(_find_model(options.model), options.version)
    print(f"pinned {options.model}: version {options.version}")


def _unpin(options: argparse.Namespace) -> None:
    promoting.pin(_find_model(options.model), options.version, pinned=False)
    print(f"unpinned {options.model}: version {options.version}")


def _collect(options: argparse.Namespace) -> None:
    model = _find_model(options.model)
    removed = promoting.collect(model, keep=options.keep, dry_run=options.dry_run)
    word = "would remove" if options.dry_run else "removed"
    print(f"{word} {', '.join(map(str, removed)) or 'nothing'}")
