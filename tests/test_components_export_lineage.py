"""What a run begins with and is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.export.lineage import CHAMPION, Beginning, find_beginning, find_reference
from model.errors import InputError


def add_version(model: Path, number: int, **report: Any) -> str:
    """Makes what looks like a version, and it the champion."""
    version = model / str(number)
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"")
    (version / "report.json").write_text(json.dumps(report))
    (model / "champion.json").write_text(json.dumps({"version": number}))
    return str(version)


def begin(model: Path, warm_start: str = CHAMPION, run: str = "this") -> Beginning:
    return find_beginning(str(model.parent), model.name, warm_start=warm_start, identity=run)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "registry" / "lm"


@pytest.mark.parametrize("warm_start", ["", CHAMPION])
def test_nothing_is_published_yet(model: Path, warm_start: str) -> None:
    assert begin(model, warm_start) == Beginning("", "")


def test_the_champion_of_another_run(model: Path) -> None:
    first = add_version(model, 1, run="another", champion=None, warm_start=None)
    assert begin(model) == Beginning(first, first)
    assert begin(model, "") == Beginning(first, "")


def set_reference(model: Path, number: int) -> str:
    pointer = json.loads((model / "champion.json").read_text())
    pointer["reference"] = {"version": number, "digest": "d" * 64}
    (model / "champion.json").write_text(json.dumps(pointer))
    return str(model / str(number))


def test_the_reference_is_handed_on_even_if_it_is_gone(model: Path) -> None:
    second = add_version(model, 2, run="another")
    assert find_reference(str(model)) == ""
    gone = set_reference(model, 1)
    assert begin(model) == Beginning(second, second, gone)
    assert find_reference(str(model)) == gone
    assert find_reference(second) == ""
    (model / "champion.json").write_text('{"version": 2, "reference": 7}')
    with pytest.raises(InputError, match=r"champion\.json is damaged; charloom registry promote"):
        find_reference(str(model))


def test_a_run_again_is_held_against_the_same_reference(model: Path) -> None:
    first = add_version(model, 1, run="before", champion=None, warm_start=None)
    beside = {"champion": {"path": first}, "reference": {"path": first}}
    add_version(model, 2, run="this", warm_start={"path": first}, **beside)
    set_reference(model, 2)
    assert begin(model) == Beginning(first, first, first)


def test_a_version_that_was_not_made_by_a_run(model: Path) -> None:
    first = add_version(model, 1, run=None)
    assert begin(model, run="") == Beginning(first, first)


def test_a_run_again_begins_with_what_it_began_with(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = add_version(model, 1, run="before", champion=None, warm_start=None)
    second = add_version(model, 2, run="this", champion={"path": first}, warm_start={"path": first})
    assert begin(model) == Beginning(first, first)
    assert capsys.readouterr().out == f"{second} was made by this very run\n"
    assert begin(model, run="another") == Beginning(second, second)


def test_the_first_run_again_begins_with_random_weights(model: Path) -> None:
    add_version(model, 1, run="this", champion=None, warm_start=None)
    assert begin(model) == Beginning("", "")


def test_a_version_before_that_is_gone(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {"path": str(model / "1")}
    add_version(model, 2, run="this", champion=gone, warm_start=gone)
    assert begin(model) == Beginning("", "")
    assert f"{model / '1'} is gone, and left out" in capsys.readouterr().out


def test_weights_of_another_model(model: Path) -> None:
    other = add_version(model.parent / "other", 4, run="x")
    first = add_version(model, 1, run="another")
    assert begin(model, str(model.parent / "other")) == Beginning(first, other)
    assert begin(model, other) == Beginning(first, other)


def test_bad_input(model: Path) -> None:
    with pytest.raises(InputError, match="holds no exported model"):
        begin(model, str(model))
    first = add_version(model, 1)
    (Path(first) / "report.json").write_text("{")
    with pytest.raises(InputError, match=r"report\.json can't be read"):
        begin(model)
