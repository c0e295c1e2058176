"""Flags of evaluate and export: what a model is compared with, and how it is published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.evaluate import main as evaluating
from components.export import main as exporting
from components.export.checking import Budget
from components.export.manifest import write_manifest
from components.export.promoting import promote, rebase
from components.export.registry import RegisteredModel
from model.config import to_json
from model.errors import InputError
from model.presets import tiny
from pipelines.cli.main import build_parser, main
from pipelines.cli.model_flags import find_compared

FOLDERS = ("--records", "r", "--workdir", "w")


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model of three versions, of which 1 is the reference and 2 the champion."""
    for number in (1, 2, 3):
        version = tmp_path / "my lm" / str(number)
        version.mkdir(parents=True)
        (version / "saved_model.pb").write_bytes(b"")
        write_manifest(str(version), {"checkpoint": f"c{number}"})
    for number in (1, 2):
        promote(RegisteredModel(str(tmp_path), "my lm"), number)
    return str(tmp_path / "my lm")


def compared(*flags: str) -> tuple[str, str]:
    return find_compared(build_parser().parse_args(["evaluate", *FOLDERS, *flags]))


def test_the_reference_is_that_of_the_champion_s_model(model: str) -> None:
    assert compared() == ("", "")
    assert compared("--champion", model) == (f"{model}/2", f"{model}/1")
    rebase(RegisteredModel.at(model), 3)
    assert compared("--champion", model) == (f"{model}/2", f"{model}/3")
    assert compared("--champion", f"{model}/2") == (f"{model}/2", "")  # a version alone has none


def test_a_reference_that_is_named(model: str) -> None:
    assert compared("--reference", model) == ("", f"{model}/1")
    for champion in (model, f"{model}/2"):
        for flag, expected in ((model, 1), (f"{model}/2", 2), (f"{model}/3", 3)):
            found = compared("--champion", champion, "--reference", flag)
            assert found == (f"{model}/2", f"{model}/{expected}")


def test_a_reference_that_is_gone_is_handed_on(model: str) -> None:
    """The gate gives it as its reason; without it a drift would go unseen."""
    shutil.rmtree(f"{model}/1")
    assert compared("--champion", model) == (f"{model}/2", f"{model}/1")
    assert compared("--reference", model) == ("", f"{model}/1")


def test_a_reference_that_is_none(model: str, tmp_path: Path) -> None:
    pointer = Path(model, "champion.json")
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "reference": None}))
    assert compared("--champion", model) == (f"{model}/2", "")
    with pytest.raises(InputError) as caught:
        compared("--reference", model)
    assert str(caught.value) == (
        f"{model} has no reference yet; charloom registry rebase '{model}' VERSION sets one, or "
        "omit --reference"
    )
    for path in (str(tmp_path), f"{model}/9", ""):
        with pytest.raises(InputError, match="is not an exported model"):
            compared("--reference", path)


def test_evaluate_hands_both_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def run(**arguments: Any) -> dict[str, Any]:
        asked.update(arguments)
        return {"verdict": {"status": "PASSED"}}

    monkeypatch.setattr(evaluating, "run", run)
    (tmp_path / "config.json").write_text(to_json(tiny()))
    folders = ["--records", "r", "--workdir", str(tmp_path)]
    assert main(["evaluate", *folders, "--champion", model, "--reference", f"{model}/3"]) == 0
    assert (asked["champion"], asked["reference"]) == (f"{model}/2", f"{model}/3")
    assert main(["evaluate", *folders, "--champion", model]) == 0
    assert (asked["champion"], asked["reference"]) == (f"{model}/2", f"{model}/1")


@pytest.mark.parametrize(
    ("flags", "precision", "budget"),
    [
        ([], "float32", None),
        (["--precision", "bfloat16"], "bfloat16", None),
        (["--max-latency-ms", "30"], "float32", Budget(latency_ms=30.0)),
        (["--max-memory-mb", "0"], "float32", Budget(memory_mb=0.0)),
    ],
)
def test_export_hands_precision_and_budget_on(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], precision: str, budget: Budget | None
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(exporting, "run", lambda **arguments: asked.update(arguments))
    assert main(["export", *FOLDERS, "--registry", "registry", *flags]) == 0
    assert (asked["precision"], asked["budget"]) == (precision, budget)
