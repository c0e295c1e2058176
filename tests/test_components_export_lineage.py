"""What a run begins with and is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.export.lineage import CHAMPION, Beginning, find_beginning
from components.export.manifest import write_manifest
from components.export.registry import RegisteredModel
from model.errors import InputError


def add_version(model: Path, number: int, **report: Any) -> str:
    """Makes what looks like a version, and it the champion."""
    version = model / str(number)
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"")
    (version / "report.json").write_text(json.dumps(report))
    (model / "champion.json").write_text(json.dumps({"version": number}))
    write_manifest(str(version), {"checkpoint": f"{model.name}-{number}"})
    return str(version)


def find(model: Path, warm_start: str = CHAMPION, run: str = "this") -> Beginning:
    return find_beginning(
        RegisteredModel.at(str(model)),
        warm_start=warm_start,
        identify=lambda base, champion: f"{run}: {base} > {champion}",
    )


def begin(model: Path, warm_start: str = CHAMPION, run: str = "this") -> tuple[str, ...]:
    return find(model, warm_start, run)[:3]


def begun(path: str, digest: str) -> dict[str, Any]:
    """Returns what a report says of the version with which its run began, and was compared."""
    found = {"path": path, "checkpoint": digest, "checkpoint_digest": digest}
    return {"champion": found, "warm_start": found}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "registry" / "lm"


@pytest.mark.parametrize("warm_start", ["", CHAMPION])
def test_nothing_is_published_yet(model: Path, warm_start: str) -> None:
    assert begin(model, warm_start) == ("", "", "this:  > ")


def test_the_champion_of_another_run(model: Path) -> None:
    first = add_version(model, 1, run="another", champion=None, warm_start=None)
    assert begin(model) == (first, first, "this: lm-1 > lm-1")
    assert begin(model, "") == (first, "", "this:  > lm-1")


def set_reference(model: Path, number: int) -> str:
    pointer = json.loads((model / "champion.json").read_text())
    pointer["reference"] = {"version": number, "digest": "d" * 64}
    (model / "champion.json").write_text(json.dumps(pointer))
    return str(model / str(number))


def test_the_reference_is_handed_on_even_if_it_is_gone(model: Path) -> None:
    second, registered = add_version(model, 2, run="another"), RegisteredModel.at(str(model))
    assert registered.reference_folder() is None
    gone = set_reference(model, 1)
    assert find(model) == (second, second, "this: lm-2 > lm-2", gone)
    assert registered.reference_folder() == gone
    assert RegisteredModel.at(second).reference_folder() is None
    (model / "champion.json").write_text('{"version": 2, "reference": "x"}')
    with pytest.raises(InputError, match=r"champion\.json is damaged; charloom registry promote"):
        registered.reference_folder()


def test_a_reference_that_was_replaced_is_refused(model: Path) -> None:
    add_version(model, 1, run="another")
    add_version(model, 2, run="another")
    folder = set_reference(model, 1)  # by a digest that is not that of the folder
    for call in (RegisteredModel.at(str(model)).reference_folder, lambda: find(model)):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == (
            f"{folder} is not the version 1 that champion.json names (its MANIFEST.json "
            f"differs); restore that version, or charloom registry rebase {model} VERSION sets "
            "another reference"
        )


def test_a_run_again_is_held_against_the_same_reference(model: Path) -> None:
    first = add_version(model, 1, run="before", champion=None, warm_start=None)
    run = "this: lm-1 > lm-1"
    add_version(model, 2, run=run, **begun(first, "lm-1"), reference={"path": first})
    set_reference(model, 2)
    assert find(model) == (first, first, run, first)
    report = {**begun(first, "lm-1"), "reference": {"path": str(model / "gone")}}
    add_version(model, 3, run=run, **report)
    assert find(model) == (first, first, run, str(model / "gone"))


def test_a_version_that_was_not_made_by_a_run(model: Path) -> None:
    first = add_version(model, 1, run=None)
    assert begin(model, run="") == (first, first, ": lm-1 > lm-1")


def test_a_run_again_begins_with_what_it_began_with(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = add_version(model, 1, run="before", champion=None, warm_start=None)
    run = "this: lm-1 > lm-1"
    second = add_version(model, 2, run=run, **begun(first, "lm-1"))
    assert begin(model) == (first, first, run)
    assert capsys.readouterr().out == f"{second} was made by this run\n"
    assert begin(model, str(model)) == (first, first, run)  # by the model's name
    assert begin(model, first) == (first, first, run)  # by the version's
    assert begin(model, run="another") == (second, second, "another: lm-2 > lm-2")
    assert begin(model, second) == (second, second, "this: lm-2 > lm-2")


def test_the_first_run_again_begins_with_random_weights(model: Path) -> None:
    add_version(model, 1, run="this:  > ", champion=None, warm_start=None)
    assert begin(model) == ("", "", "this:  > ")


def test_the_first_text_again_after_another_is_another_run(model: Path) -> None:
    first = add_version(model, 1, run="this:  > ", champion=None, warm_start=None)
    second = add_version(model, 2, run="that: lm-1 > lm-1", **begun(first, "lm-1"))
    assert begin(model) == (second, second, "this: lm-2 > lm-2")


def test_a_version_before_that_is_gone(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = "this: lm-1 > lm-1"
    add_version(model, 2, run=run, **begun(str(model / "1"), "lm-1"))
    assert begin(model) == ("", "", run)
    assert f"{model / '1'} is gone and will be ignored" in capsys.readouterr().out


def test_weights_of_another_model(model: Path) -> None:
    other = add_version(model.parent / "other", 4, run="x")
    first = add_version(model, 1, run="another")
    expected = (first, other, "this: other-4 > lm-1")
    assert begin(model, str(model.parent / "other")) == expected
    assert begin(model, other) == expected


def test_bad_input(model: Path) -> None:
    with pytest.raises(InputError, match="is not an exported model"):
        begin(model, str(model))
    first = add_version(model, 1)
    (Path(first) / "report.json").write_text("{")
    with pytest.raises(InputError, match=r"report\.json can't be read"):
        begin(model)
    (Path(first) / "report.json").write_text("{}")
    (Path(first) / "MANIFEST.json").unlink()
    with pytest.raises(InputError, match=r"lm/1 has no whole MANIFEST\.json"):
        begin(model)


def test_a_champion_that_was_replaced_is_no_beginning(model: Path) -> None:
    first = add_version(model, 1, run="x")
    pointer = {"format": 2, "version": 1, "digest": "0" * 64, "history": [], "newest": 1}
    (model / "champion.json").write_text(json.dumps(pointer))
    with pytest.raises(InputError) as caught:
        begin(model)
    assert str(caught.value) == (
        f"{first} is not the version 1 that champion.json names (its MANIFEST.json "
        f"differs); restore that version, or charloom registry promote {model} VERSION sets another "
        "champion"
    )
