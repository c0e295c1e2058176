"""Flags about published models: to start from, to compare with, and limits for serving."""

from __future__ import annotations

import argparse
import shlex

from components.export.registry import RegisteredModel, find_model
from model.errors import InputError


def add_warm_start(parser: argparse.ArgumentParser) -> None:
    """Adds --warm-start for a training by itself."""
    parser.add_argument(
        "--warm-start",
        metavar="DIR",
        help="start from the weights of a model: a version's folder, or <registry>/<name> for "
        "its champion",
    )


def add_champion(parser: argparse.ArgumentParser) -> None:
    """Adds --champion and --reference."""
    parser.add_argument(
        "--champion",
        metavar="DIR",
        help="model to compare with: a version's folder, or <registry>/<name> for its champion",
    )
    parser.add_argument(
        "--reference",
        metavar="DIR",
        help="best version so far, which limits the loss over many versions (gate.max_drift): a "
        "version's folder, or <registry>/<name> (default: as --champion, if in that form)",
    )


def find_compared(options: argparse.Namespace) -> tuple[str, str]:
    """Returns the folders of champion and reference from the flags; empty for none.

    Raises:
      InputError: there is no such model, or it has no reference.
    """
    champion = find_model(options.champion) if options.champion else ""
    if options.reference is None:
        model = RegisteredModel.at(options.champion) if options.champion else None
        return champion, (model and model.reference_folder()) or ""
    model = RegisteredModel.at(options.reference)
    if not model.has_pointer():
        return champion, find_model(options.reference)
    reference = model.reference_folder()
    if not reference:
        raise InputError(
            f"{options.reference} has no reference yet; charloom registry rebase "
            f"{shlex.quote(options.reference)} VERSION sets one, or omit --reference"
        )
    return champion, reference


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Adds the limits on answering a request that are checked before publishing."""
    parser.add_argument(
        "--max-latency-ms",
        type=float,
        metavar="MS",
        help="for the slowest recorded request (default: 2000)",
    )
    parser.add_argument(
        "--max-memory-mb",
        type=float,
        metavar="MB",
        help="for a process that serves the model (default: 8192)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Adds --precision."""
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="precision of the served model's table and softmax; bfloat16 halves their memory, but "
        "is faster only on processors with instructions for it (default: float32)",
    )
