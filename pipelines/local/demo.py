"""The built-in corpus: the language reference included in every CPython."""

from __future__ import annotations

import os

from model.errors import InputError

EXAMPLE = "the value of the"
"""Text that the demo asks its model to continue."""


def write_corpus(folder: str) -> str:
    """Writes the topics of `pydoc_data`, about 65,000 words of English, one file each.

    Returns:
      `folder`.

    Raises:
      InputError: the folder can't be written or this Python lacks the text.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "this Python has no pydoc_data.topics, which the demo trains on; use a CPython from "
            "python.org or your system, or train on your own text with charloom run --input"
        ) from None
    try:
        os.makedirs(folder, exist_ok=True)
        for name, text in topics.items():
            with open(os.path.join(folder, f"{name}.txt"), "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise InputError(
            f"can't write the corpus to {folder} ({error.strerror}); choose another --root"
        ) from None
    return folder
