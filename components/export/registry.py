"""The model registry: integer version folders, as TensorFlow Serving wants them.

<registry>/<name>/<version>/   saved_model.pb, variables/, model_card.md, report.json, config.json
<registry>/<name>/champion.json   which version is the one to use
"""

from __future__ import annotations

import json
import os
import re
import tempfile

from model.errors import InputError
from model.files import write_whole

CHAMPION_FILE = "champion.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> None:
    """Raises InputError unless `name` can be a model's folder."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"model name {name!r} must begin with a letter or digit and hold only letters, "
            "digits, '.', '_' and '-'"
        )


def versions(registry: str, name: str) -> list[int]:
    """Returns the published versions of a model, oldest first."""
    try:
        entries = os.listdir(os.path.join(registry, name))
    except FileNotFoundError:
        return []
    return sorted(int(entry) for entry in entries if entry.isdecimal())


def staging_folder(registry: str, name: str) -> str:
    """Makes a new folder beside the versions of a model, to be filled and published.

    Raises:
      InputError: the registry can't be written or the name is no name.
    """
    check_name(name)
    parent = os.path.join(registry, name)
    try:
        os.makedirs(parent, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".staging-", dir=parent)
    except OSError as error:
        raise InputError(
            f"registry {registry} can't be written ({error.strerror}); choose another"
        ) from None
    os.chmod(folder, 0o755)
    return folder


def publish(registry: str, name: str, *, staged: str) -> str:
    """Gives a filled staging folder the next version number and points the champion at it.

    Safe beside another publisher: a number is taken by renaming, which one of the two wins.

    Returns:
      The version's folder.
    """
    while True:
        version = max(versions(registry, name), default=0) + 1
        target = os.path.join(registry, name, str(version))
        try:
            os.rename(staged, target)
        except OSError:
            if os.path.exists(target):  # another publisher was faster
                continue
            raise
        _point_champion(registry, name)
        return target


def _point_champion(registry: str, name: str) -> None:
    """Points the champion at the newest version, another publisher's if that is newer."""
    path = os.path.join(registry, name, CHAMPION_FILE)
    version = 0
    while version != (newest := versions(registry, name)[-1]):
        version = newest
        write_whole(path, json.dumps({"version": version}) + "\n")


def find_model(path: str) -> str:
    """Returns the folder of a SavedModel.

    Args:
      path: a version's folder, or a model's, whose champion is taken.

    Raises:
      InputError: there is no model.
    """
    if os.path.exists(os.path.join(path, "saved_model.pb")):
        return path
    try:
        with open(os.path.join(path, CHAMPION_FILE), encoding="utf-8") as file:
            return find_model(os.path.join(path, str(int(json.load(file)["version"]))))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} holds no exported model; name a version's folder, <registry>/<name>/<number>"
        ) from None
