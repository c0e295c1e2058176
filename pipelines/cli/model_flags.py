"""Flags about published models: what to begin with and compare with, and what one may cost."""

from __future__ import annotations

import argparse
import os
import shlex

from components.export.lineage import find_reference
from components.export.registry import CHAMPION_FILE, find_model
from model.errors import InputError


def add_warm_start(parser: argparse.ArgumentParser) -> None:
    """Adds --warm-start, of a training alone."""
    parser.add_argument(
        "--warm-start",
        metavar="DIR",
        help="begin with the weights of a model: a version's folder, or <registry>/<name>, whose "
        "champion is taken",
    )


def add_champion(parser: argparse.ArgumentParser) -> None:
    """Adds --champion and --reference."""
    parser.add_argument(
        "--champion",
        metavar="DIR",
        help="model to compare with: a version's folder, or <registry>/<name>, whose champion is taken",
    )
    parser.add_argument(
        "--reference",
        metavar="DIR",
        help="best version so far, which bounds the loss over many versions (gate.max_drift): a "
        "version's folder, or <registry>/<name> (default: as --champion, if that is such a model)",
    )


def find_compared(options: argparse.Namespace) -> tuple[str, str]:
    """Returns the folders of champion and reference that the flags name; empty for none.

    Raises:
      InputError: there is no such model, or it has no reference.
    """
    champion = find_model(options.champion) if options.champion else ""
    if options.reference is None:
        return champion, find_reference(options.champion) if options.champion else ""
    if not os.path.exists(os.path.join(options.reference, CHAMPION_FILE)):
        return champion, find_model(options.reference)
    reference = find_reference(options.reference)
    if not reference:
        raise InputError(
            f"{options.reference} has no reference yet; charloom registry rebase "
            f"{shlex.quote(options.reference)} VERSION sets one, or leave --reference out"
        )
    return champion, reference


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Adds what a model may take to answer, as a check before publishing finds it."""
    parser.add_argument(
        "--max-latency-ms",
        type=float,
        metavar="MS",
        help="of the slowest recorded request (default: 2000)",
    )
    parser.add_argument(
        "--max-memory-mb",
        type=float,
        metavar="MB",
        help="of a process that serves the model (default: 8192)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Adds --precision."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the served model's table and softmax; bfloat16 takes half the memory for both, and "
        "is quicker only on processors that have instructions for it (default: float32)",
    )
