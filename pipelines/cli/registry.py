"""The commands of the registry: list, show, promote, rollback, rebase, pin, unpin and gc."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from model.errors import CharloomError, InputError
from model.files import read_json
from pipelines.cli.shared import IS_PRODUCT, Add

KEEP = 5


def add_commands(add: Add, commands: Any) -> None:
    """Adds the commands; `add` makes the parser of one."""
    registry = add(commands, "registry", _list, "Look at published versions; promote, roll back.")
    actions = registry.add_subparsers(title="commands", metavar="COMMAND", required=True)

    listing = add(actions, "list", _list, "List the models of a registry, or a model's versions.")
    listing.add_argument("path", metavar="DIR", help="<registry> or <registry>/<name>")
    _add_json(listing)
    listing.set_defaults(**{IS_PRODUCT: True})

    show = add(actions, "show", _show, "Show a version, and whether its files are whole.")
    _add_model(show)
    show.add_argument("version", nargs="?", type=int, help="its number (default: the champion)")
    _add_json(show)

    promote = add(actions, "promote", _promote, "Make a version the champion.")
    _add_version(promote)
    rollback = add(actions, "rollback", _rollback, "Restore the previous champion.")
    _add_model(rollback)
    rebase = "Make a version the reference, from which a chain of champions may not drift far."
    _add_version(add(actions, "rebase", _rebase, rebase))
    _add_version(add(actions, "pin", _pin, "Keep a version from being collected."))
    _add_version(add(actions, "unpin", _unpin, "Let a version be collected again."))

    gc = add(
        actions, "gc", _collect, "Remove old versions; champion, reference and pinned ones stay."
    )
    _add_model(gc)
    gc.add_argument(
        "--keep",
        type=int,
        default=KEEP,
        metavar="N",
        help=f"so many of the newest versions stay (default: {KEEP})",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="<registry>/<name>")


def _add_version(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("version", type=int, help="its number")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def split_model(path: str) -> tuple[str, str]:
    """Returns registry and name of `<registry>/<name>`.

    Raises:
      InputError: there is no model.
    """
    from components.export.registry import versions

    registry, name = os.path.split(os.path.normpath(path))
    if not versions(registry, name):
        raise InputError(f"{path} holds no published model; name <registry>/<name>")
    return registry, name


def describe_versions(registry: str, name: str) -> list[dict[str, Any]]:
    """Returns of each version, oldest first, what a list shows."""
    from components.export.promoting import read_pins
    from components.export.registry import read_pointer, versions

    pointer, pins = read_pointer(os.path.join(registry, name)), read_pins(registry, name)
    champion = pointer.version if pointer else None
    reference = pointer.reference.version if pointer and pointer.reference else None
    rows = []
    for version in versions(registry, name):
        folder = os.path.join(registry, name, str(version))
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
    from components.export.registry import versions

    path = os.path.normpath(options.path)
    if not os.path.isdir(path):
        raise InputError(f"{path} is no folder; name a registry, or <registry>/<name>")
    registry, name = os.path.split(path)
    if versions(registry, name):
        models = [name]
    else:
        registry, models = path, sorted(one for one in os.listdir(path) if versions(path, one))
    if not models:
        raise InputError(f"{path} holds no published model; charloom export makes one")
    rows = [
        {"model": model, **row} for model in models for row in describe_versions(registry, model)
    ]
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
    from components.export.manifest import read_manifest, verify
    from components.export.registry import read_champion

    registry, name = split_model(options.model)
    version = options.version if options.version is not None else read_champion(registry, name)
    rows = [row for row in describe_versions(registry, name) if row["version"] == version]
    if not rows:
        wanted = "no champion" if version is None else f"no version {version}"
        raise InputError(f"{options.model} has {wanted}; charloom registry list shows them")
    folder = rows[0]["path"]
    problems = verify(folder)
    if options.json:
        manifest = read_manifest(folder)
        print(json.dumps({"model": name, **rows[0], "problems": problems, **manifest}, indent=2))
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
    from components.export.promoting import promote

    registry, name = split_model(options.model)
    before = promote(registry, name, options.version)
    print(f"champion of {options.model}: version {options.version} (before: {before or 'none'})")


def _rollback(options: argparse.Namespace) -> None:
    from components.export.promoting import rollback

    before, now = rollback(*split_model(options.model))
    print(f"champion of {options.model}: version {now} (before: {before})")


def _rebase(options: argparse.Namespace) -> None:
    from components.export.promoting import rebase

    registry, name = split_model(options.model)
    before = rebase(registry, name, options.version)
    print(f"reference of {options.model}: version {options.version} (before: {before or 'none'})")


def _pin(options: argparse.Namespace) -> None:
    from components.export.promoting import pin

    pin(*split_model(options.model), options.version)
    print(f"pinned {options.model}: version {options.version}")


def _unpin(options: argparse.Namespace) -> None:
    from components.export.promoting import pin

    pin(*split_model(options.model), options.version, pinned=False)
    print(f"unpinned {options.model}: version {options.version}")


def _collect(options: argparse.Namespace) -> None:
    from components.export.promoting import collect

    registry, name = split_model(options.model)
    removed = collect(registry, name, keep=options.keep, dry_run=options.dry_run)
    word = "would remove" if options.dry_run else "removed"
    print(f"{word} {', '.join(map(str, removed)) or 'nothing'}")
