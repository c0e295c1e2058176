"""The listing of a corpus on disk: `find_inputs` writes it, `preprocess` prepares what it names.

A folder with a file of JSON lines: a header with the version and the number of files, then for
each file a list of what `COLUMNS` names. No TensorFlow and no Beam here.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Sequence

from components.preprocess.sources.types import InputFile
from model.errors import InputError
from model.files import COMPLETED_FILE, whole_file, write_whole

LISTING_FILE = "listing.jsonl"
FORMAT_VERSION = 1
COLUMNS = ("path", "name", "size", "split", "modified")
"""The fields of `InputFile` that are listed."""


def save_listing(folder: str, files: Sequence[InputFile]) -> None:
    """Writes a listing into a folder, which then counts as made by charloom, and not as text.

    Args:
      folder: made here if it is not there; an older listing in it is replaced.
      files: in the order of `find_files`.

    Raises:
      InputError: it can't be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with whole_file(os.path.join(folder, LISTING_FILE)) as file:
            for row in (_header(len(files)), *map(operator.attrgetter(*COLUMNS), files)):
                file.write(f"{json.dumps(row)}\n".encode())
        write_whole(os.path.join(folder, COMPLETED_FILE), "")
    except OSError as error:
        raise InputError(
            f"the listing {folder} can't be written ({error.strerror}); make room, or make the "
            "folder writable, and start a new run"
        ) from None


def load_listing(folder: str) -> list[InputFile]:
    """Returns the files of the listing in a folder, in their order.

    Raises:
      InputError: it is gone, damaged, or in another format.
    """
    path = os.path.join(folder, LISTING_FILE)
    try:
        with open(path, encoding="utf-8") as lines:
            header = json.loads(lines.readline())
            rows = (dict(zip(COLUMNS, json.loads(line), strict=True)) for line in lines)
            files = [InputFile(**row, from_listing=True) for row in rows]
    except (OSError, TypeError, ValueError) as error:
        detail = getattr(error, "strerror", None) or "it is damaged"
    else:
        if header == _header(len(files)):
            return files
        detail = f"its header is {header}, not {_header(len(files))}"
    raise InputError(f"the listing {path} can't be used ({detail}); start a new run")


def _header(files: int) -> dict[str, int]:
    return {"format_version": FORMAT_VERSION, "files": files}
