"""Names of the files in the scratch folder, which the passes leave for one another."""

from __future__ import annotations

import os


def words_path(folder: str) -> str:
    """Returns the file of the words of the vocabulary, `null` if they are not given."""
    return os.path.join(folder, "given-words.json")


def scan_path(folder: str, unit: int) -> str:
    """Returns the file of what the first pass found in a unit."""
    return os.path.join(folder, f"{unit:08d}.scan.json")


def pieces_path(folder: str, unit: int) -> str:
    """Returns the file of a unit's pieces."""
    return os.path.join(folder, f"{unit:08d}.pieces")


def problem_path(folder: str) -> str:
    """Returns the file that says why there is no vocabulary, `null` if there is one."""
    return os.path.join(folder, "problem.json")


def group_path(folder: str, group: int) -> str:
    """Returns the file of what the second pass tells of a group."""
    return os.path.join(folder, f"{group:08d}.group.json")


def index_path(folder: str, split: str, group: int) -> str:
    """Returns the file of offsets, lengths and characters of a group's records of a split."""
    return os.path.join(folder, f"{split}-{group:08d}.index.npy")


def seen_path(folder: str, group: int) -> str:
    """Returns the file of hashes of a group's training text."""
    return os.path.join(folder, f"{group:08d}.seen.npy")


def signatures_path(folder: str, split: str, group: int) -> str:
    """Returns the file of the signatures of a group's records of a split."""
    return os.path.join(folder, f"{split}-{group:08d}.signatures.npy")
