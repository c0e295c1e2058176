"""Retraining on a longer window: State of the Union addresses up to 1980, then up to 2006.

`charloom run` on the first window publishes version 1. `charloom run --warm-start champion
--extend-vocab` on the second starts from it and is compared with it. Then `charloom train` learns
the second window's records from random weights, for all steps. `ratio` is the number of steps at
which this cold training is best, divided by the number at which the warm one is as good, both on
the second window's validation split. It counts steps, not seconds, so the machine may be busy.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

from bench import _sides
from bench._data import ROOT, say
from components.export.registry import RegisteredModel
from model.errors import InputError

TEXTS = os.path.join(os.path.dirname(ROOT), "shared", "data", "state_union")
_YEAR = re.compile(r"(\d{4})-")


def main() -> None:
    """Runs the two windows and the cold training, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="demo", help="default: demo")
    parser.add_argument("--first", type=int, default=1980, help="last year of the first window")
    parser.add_argument("--second", type=int, default=2006, help="last year of the second window")
    parser.add_argument("--steps-share", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--every", type=int, default=25, help="steps between validations")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--keep", metavar="DIR", help="keep all output in this folder")
    options = parser.parse_args()
    if not os.path.isdir(TEXTS):
        raise InputError(f"{TEXTS} is missing; State of the Union addresses are read from there")
    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        _sides.print_result(**_measure(options, options.keep or folder))


def _measure(options: argparse.Namespace, root: str) -> dict[str, Any]:
    settings = [f"train.valid_steps={options.every}", *options.set]
    config = ["--preset", options.preset, *(f"--set={setting}" for setting in settings)]
    run = ["run", "--root", root, "--workers", "1", *config]
    _charloom(*run, "--input", *_texts(options.first))
    warm = ["--warm-start", "champion", "--extend-vocab", "--steps-share", str(options.steps_share)]
    said = _charloom(*run, *warm, "--input", *_texts(options.second))
    records = _value(said, "records")
    report = _read_report(os.path.dirname(_value(said, "report")))
    cold = os.path.join(root, "cold")
    _charloom("train", "--records", records, "--workdir", cold, *config)
    _charloom("evaluate", "--records", records, "--workdir", cold, passing=False)
    cold_report = _read_report(os.path.join(cold, "report"))
    cold_curve, warm_curve = (one["curves"]["valid"] for one in (cold_report, report))
    best = min(cold_curve, key=lambda row: row["perplexity"])
    reached = [row for row in warm_curve if row["perplexity"] <= best["perplexity"]]
    comparison = report["verdict"]["comparison"]
    champion = RegisteredModel(os.path.join(root, "registry"), "lm").champion()
    return {
        "ratio": round(best["step"] / reached[0]["step"], 3) if reached else None,
        "cold_steps": best["step"],
        "cold_perplexity": round(best["perplexity"], 2),
        "warm_steps": reached[0]["step"] if reached else None,
        "warm_steps_in_all": report["config"]["train"]["steps"],
        "warm_perplexity": round(min(row["perplexity"] for row in warm_curve), 2),
        "cold_test_perplexity": round(cold_report["splits"]["test"]["perplexity"], 2),
        "warm_test_perplexity": round(report["splits"]["test"]["perplexity"], 2),
        "new_words": report["warm_start"]["new_words"],
        "vocabulary": report["warm_start"]["words"],
        "new_years": _compare_years(report, after=options.first),
        "change": [
            round(comparison[name], 4)
            for name in ("perplexity_change_low", "perplexity_change", "perplexity_change_high")
        ],
        "verdict": report["verdict"]["status"],
        "champion": champion.version if champion else None,
        "curves": {
            name: [[row["step"], round(row["perplexity"], 2)] for row in curve]
            for name, curve in (("cold", cold_curve), ("warm", warm_curve))
        },
    }


def _compare_years(report: dict[str, Any], *, after: int) -> dict[str, Any]:
    """Returns both models' perplexity, including spellings, on the test documents of new years."""
    figures: dict[str, Any] = {}
    sides = {"second_run": report["splits"]["test"], "first_run": report["champion"]["test"]}
    for name, part in sides.items():
        rows = [row for row in part["documents"] if _year(row["source"]) > after]
        words = sum(row["words"] for row in rows)
        total = sum(row["log_likelihood"] + row["spelling_log_likelihood"] for row in rows)
        figures[name] = round(math.exp(-total / words), 2)
        figures["documents"], figures["words"] = len(rows), words
    return figures


def _texts(last: int) -> list[str]:
    return sorted(path for path in glob.glob(f"{TEXTS}/*.txt") if _year(path) <= last)


def _year(path: str) -> int:
    found = _YEAR.search(os.path.basename(path))
    if not found:
        raise InputError(f"{path} has no year in its name")
    return int(found[1])


def _value(said: str, name: str) -> str:
    """Returns a folder that a run printed."""
    found = re.search(rf"^{name}: +(.+)$", said, flags=re.MULTILINE)
    if not found:
        raise InputError(f"charloom run did not print its {name}")
    return found[1]


def _read_report(folder: str) -> dict[str, Any]:
    with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
        report: dict[str, Any] = json.load(file)
    return report


def _charloom(*arguments: str, passing: bool = True) -> str:
    """Runs a charloom command, shows its output, and returns it."""
    say(f"charloom {' '.join(arguments[:3])} ...")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli.main", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        say(f"  {line.rstrip()}")
    if process.wait() and (passing or process.returncode != 3):  # 3: rejected by the gate
        raise InputError(f"charloom {arguments[0]} ended with {process.returncode}")
    return "".join(lines)


if __name__ == "__main__":
    _sides.run_main(main)
