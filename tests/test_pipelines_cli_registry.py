"""`charloom registry`, by its commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.export.manifest import write_manifest
from components.export.registry import RegisteredModel
from pipelines.cli.main import main


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model of three versions."""
    registered = RegisteredModel(str(tmp_path), "lm")
    for number in (1, 2, 3):
        staged = Path(registered.stage())
        (staged / "saved_model.pb").touch()
        (staged / "model_card.md").write_text("# lm\n")
        test = {"perplexity": 100.0 + number, "bits_per_character": 2.0, "words": 1000}
        if number > 1:  # version 1 has a report of before
            test["characters_estimated"] = False
        (staged / "report.json").write_text(json.dumps({"splits": {"test": test}}))
        write_manifest(str(staged), {"checkpoint": f"c{number}"})
        registered.publish(str(staged))
    return registered.folder


def test_a_life(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry = str(Path(model).parent)
    assert main(["registry", "promote", model, "1"]) == 0
    assert main(["registry", "promote", model, "3"]) == 0
    assert main(["registry", "pin", model, "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"champion of {model}: version 1 (before: none)",
        f"champion of {model}: version 3 (before: 1)",
        f"pinned {model}: version 2",
    ]
    for path in (registry, model):
        assert main(["registry", "list", path]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [line[:3] for line in lines[1:]] == [
            ["lm", "1", "reference"],
            ["lm", "2", "pinned"],
            ["lm", "3", "champion"],
        ]
        assert lines[3][4:] == ["103.00", "2.000"]
        assert lines[1][4:] == ["101.00", "2.000 (estimated)"]
    assert main(["registry", "rollback", model]) == 0
    assert main(["registry", "gc", model, "--keep", "1", "--dry-run"]) == 0
    assert main(["registry", "unpin", model, "2"]) == 0
    assert main(["registry", "gc", model, "--keep", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"champion of {model}: version 1 (before: 3)",
        "would remove nothing",
        f"unpinned {model}: version 2",
        "removed 2",
    ]
    pointer = RegisteredModel.at(model).read_pointer()
    assert pointer is not None
    assert (pointer.version, pointer.history) == (1, ())


def test_the_reference_is_moved_and_shown(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["registry", "rebase", model, "2"]) == 2
    assert "has no champion, so it needs no reference" in capsys.readouterr().err
    assert main(["registry", "promote", model, "1"]) == 0
    assert main(["registry", "rebase", model, "2"]) == 0
    assert capsys.readouterr().out.endswith(f"reference of {model}: version 2 (before: 1)\n")
    assert main(["registry", "list", model, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["reference"] for row in rows] == [False, True, False]
    assert main(["registry", "show", model, "2"]) == 0
    assert "\nreference: True\n" in capsys.readouterr().out


def test_list_as_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["registry", "promote", model, "2"])
    capsys.readouterr()
    assert main(["registry", "list", model, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["champion"] for row in rows] == [False, True, False]
    assert [row["checkpoint"] for row in rows] == ["c1", "c2", "c3"]
    assert rows[0]["test_perplexity"] == 101.0
    assert rows[0]["created"].endswith("+00:00")


def test_show(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["registry", "show", model, "2"]) == 0
    shown = capsys.readouterr().out
    assert "version: 2\n" in shown
    assert shown.endswith("\n# lm\n")
    assert main(["registry", "show", model]) == 2
    assert "has no champion; charloom registry list shows them" in capsys.readouterr().err
    assert main(["registry", "show", model, "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["version"], content["problems"]) == (2, [])
    Path(model, "2", "saved_model.pb").write_text("x")
    assert main(["registry", "show", model, "2"]) == 1
    assert "2 is damaged: saved_model.pb has 1 bytes, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "{model}", "9"], "has no version 9; there are 1, 2, 3"),
        (["rollback", "{model}"], "had no champion before"),
        (["gc", "{model}", "--keep", "0"], "--keep is 0; it must be at least 1"),
        (["show", "{model}", "7"], "has no version 7"),
        (["show", "{model}/1"], "has no published model; name <registry>/<name>"),
        (["list", "{model}/nothing"], "is not a folder"),
        (["list", "{model}/1"], "has no published model"),
    ],
)
def test_bad_input(
    model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["registry", *(one.format(model=model) for one in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
