"""The end of an export: what is published once, what is finished later, what a person decided."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from kill_points import export, registered, report

from components.export import publishing
from components.export.manifest import write_manifest
from components.export.promoting import collect, promote, rebase, rollback
from components.export.publishing import describe_export, find_published, finish
from components.export.registry import Numbers, find_model
from model.config import CONFIG_VERSION
from model.data.records import FORMAT_VERSION
from model.errors import CharloomError, InputError
from model.files import read_json


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A registry of two versions, made of the checkpoints a and b; b is the champion after a."""
    export(str(tmp_path), "a", None)
    export(str(tmp_path), "b", "a")
    return str(tmp_path)


def champions(root: str) -> tuple[int, list[int]]:
    pointer = registered(root).read_pointer()
    assert pointer is not None
    return pointer.version, [entry.version for entry in pointer.history]


def reference(root: str) -> int:
    pointer = registered(root).read_pointer()
    assert pointer is not None
    assert pointer.reference is not None
    return pointer.reference.version


def test_a_number_does_not_come_back(root: str) -> None:
    export(root, "c", "b")
    promote(registered(root), 2)
    shutil.rmtree(f"{root}/m/3")  # the newest, which is not the champion
    assert export(root, "d", "x") == f"{root}/m/4"
    shutil.rmtree(f"{root}/m/4")
    Path(root, "m", "numbers.json").write_text("{")  # champion.json has a copy
    assert export(root, "e", "b") == f"{root}/m/5"
    assert champions(root) == (5, [1, 2, 3, 2])


def test_a_number_does_not_come_back_without_a_champion(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert export(root, "a", "x") == f"{root}/m/1"
    assert registered(root).read_pointer() is None
    shutil.rmtree(f"{root}/m/1")
    assert export(root, "b", "x") == f"{root}/m/2"
    assert registered(root).read_numbers() == Numbers(2, ())


def replace_version(root: str, version: int) -> None:
    """Removes a version and copies another one to its number, as a person does."""
    folder = Path(root, "m", str(version))
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "saved_model.pb").write_text("other")
    write_manifest(str(folder), {"checkpoint": "other"})


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_with_the_number_of_another_version_is_refused(root: str, version: int) -> None:
    before = champions(root), reference(root)
    replace_version(root, version)
    calls: list[Any] = [
        lambda: promote(registered(root), version),
        lambda: collect(registered(root), keep=1),
    ]
    calls.append(lambda: rebase(registered(root), version))
    if version == 1:
        calls.append(lambda: rollback(registered(root)))
    else:
        calls.append(lambda: find_model(f"{root}/m"))
        calls.append(lambda: export(root, "c", "other"))
    for call in calls:
        with pytest.raises(InputError, match=rf"m/{version} is not the version {version} that"):
            call()
    assert (champions(root), reference(root)) == before


def test_digests_of_an_older_pointer_are_filled_in(root: str) -> None:
    path = Path(root, "m", "champion.json")
    path.write_text('{"version": 2, "history": [1]}')
    assert find_model(f"{root}/m") == f"{root}/m/2"
    export(root, "c", "b")
    digests = [registered(root).digest_of(number) for number in (1, 2, 3)]
    assert None not in digests
    assert read_json(str(path)) == {
        "format": 2,
        "version": 3,
        "digest": digests[2],
        "history": [
            {"version": 1, "digest": digests[0]},
            {"version": 2, "digest": digests[1]},
        ],
        "newest": 3,
        "reference": {"version": 3, "digest": digests[2]},
    }


def test_a_version_whose_publisher_died_is_promoted_by_the_next_export(root: str) -> None:
    export(root, "c", "x")  # published, and not promoted
    registered(root).write_numbers(Numbers(3, (3,)))  # as its publisher would have left it
    finish(registered(root), f"{root}/m/3", report=report("c", "b"))
    assert champions(root) == (3, [1, 2])
    assert registered(root).read_numbers() == Numbers(3, ())


def test_it_is_not_promoted_once_the_champion_is_another(root: str) -> None:
    registered(root).write_numbers(Numbers(2, (2,)))
    promote(registered(root), 1)
    export(root, "c", "a")
    assert champions(root) == (3, [1, 2, 1])
    assert "stays version 3, with which this one was not compared" in finish(
        registered(root), f"{root}/m/2", report=report("b", "x")
    )
    assert champions(root) == (3, [1, 2, 1])


def test_a_version_that_was_rolled_back_is_not_made_champion_again(root: str) -> None:
    rollback(registered(root))
    assert export(root, "b", "a") == f"{root}/m/2"  # the same run again
    assert champions(root) == (1, [])
    assert finish(registered(root), f"{root}/m/2", report=report("b", "a")) == (
        f"the champion of {root}/m is version 1; charloom registry promote {root}/m 2 makes this "
        "one the champion"
    )
    model = registered(root)
    model.write_numbers(Numbers(2, (2,)))  # had its publisher died after the promotion
    promote(model, 2)
    assert model.read_numbers() == Numbers(2, ())
    model.write_numbers(Numbers(2, (2,)))
    rollback(model)
    export(root, "b", "a")
    assert champions(root) == (1, [])


def test_a_new_comparison_decides_anew(root: str) -> None:
    export(root, "c", "a")  # compared with what is the champion no longer
    assert champions(root) == (2, [1])
    assert export(root, "c", "b") == f"{root}/m/3"  # evaluated again
    assert champions(root) == (3, [1, 2])


def test_another_code_publishes_again(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    charloom = importlib.metadata.version("charloom")
    code = f"charloom {charloom}, config {CONFIG_VERSION}, records {FORMAT_VERSION}"
    assert describe_export("bfloat16") == {"precision": "bfloat16", "code": code}
    assert export(root, "b", "a") == f"{root}/m/2"
    monkeypatch.setattr(publishing, "code_version", lambda: "another")
    assert export(root, "b", "b") == f"{root}/m/3"


def test_what_the_same_run_made_is_the_same(root: str) -> None:
    """On another processor its checkpoint may differ in some bits."""
    how = describe_export("float32")
    write_manifest(f"{root}/m/1", {"checkpoint": "a", "run": "first"}, export=how)

    def find(**digests: str) -> str | None:
        return find_published(registered(root), digests=digests, export=how)

    assert find(checkpoint="x", run="first") == f"{root}/m/1"
    assert find(checkpoint="x", run="another") is None
    assert find(checkpoint="x") is None
    assert find(checkpoint="b", run="first") == f"{root}/m/2"  # the newest that is the same


def test_a_damaged_version_is_published_again(root: str) -> None:
    Path(root, "m", "2", "saved_model.pb").write_text("x")
    assert export(root, "b", "b") == f"{root}/m/3"
    assert registered(root).versions() == [1, 2, 3]


@pytest.mark.parametrize(
    ("compared", "relation", "expected"),
    [("a", "better", 3), ("a", "equal", 1), ("b", "better", 1), (None, "better", 1)],
)
def test_the_reference_moves_to_what_is_better_than_it(
    root: str, compared: str | None, relation: str, expected: int
) -> None:
    assert reference(root) == 1  # the first champion
    export(root, "c", "x")
    content = {
        **report("c", "b"),
        "reference": compared and {"checkpoint_digest": compared},
        "verdict": {"reference": {"relation": relation}},
    }
    finish(registered(root), f"{root}/m/3", report=content)
    assert champions(root) == (3, [1, 2])
    assert reference(root) == expected


def test_the_reference_is_moved_on_purpose_and_kept(root: str) -> None:
    for mark, champion in ("cb", "dc", "ed"):
        export(root, mark, champion)
    assert rebase(registered(root), 2) == 1
    assert (reference(root), champions(root)) == (2, (5, [1, 2, 3, 4]))
    assert rollback(registered(root)) == (5, 4)
    assert reference(root) == 2
    assert collect(registered(root), keep=1) == [
        1
    ]  # 4 champion, 3 before it, 2 reference, 5 newest
    Path(root, "m", "3", "saved_model.pb").write_text("x")
    with pytest.raises(InputError, match=r"m/3 is damaged: saved_model\.pb was changed"):
        rebase(registered(root), 3)
    assert reference(root) == 2


def test_there_is_no_reference_without_a_champion(tmp_path: Path) -> None:
    export(str(tmp_path), "a", "x")
    with pytest.raises(InputError, match="m has no champion, so it needs no reference"):
        rebase(registered(str(tmp_path)), 1)


def test_a_champion_without_a_digest_is_not_what_a_first_version_was_compared_with(
    tmp_path: Path,
) -> None:
    staged = Path(tmp_path, "m", ".staging-x")
    staged.mkdir(parents=True)
    (staged / "saved_model.pb").touch()
    write_manifest(str(staged), {})
    registered(str(tmp_path)).publish(str(staged))
    promote(registered(str(tmp_path)), 1)
    export(str(tmp_path), "b", None)
    assert champions(str(tmp_path)) == (1, [])


def test_a_budget_holds_for_a_published_checkpoint_too(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one it is not asked again."""
    from components.export import main
    from components.export.checking import Budget

    asked: list[Any] = []

    def ask(*arguments: Any, **more: Any) -> None:
        asked.append((*arguments, more))
        raise CharloomError("it takes 9.0 ms, but 5.0 are allowed (--max-latency-ms)")

    monkeypatch.setattr(main, "check_in_fresh_process", ask)
    content = report("b", "a") | {
        "dataset": {"digest": "d", "vocab_digest": "v"},
        "verdict": {"status": "PASSED", "reasons": []},
    }
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(content))
    arguments = {"records": "r", "workdir": "w", "report": str(folder)}
    published = f"{root}/m/2"
    assert main.run(**arguments, registry=root, name="m") == published
    assert asked == []
    budget = Budget(latency_ms=5.0)
    with pytest.raises(CharloomError, match=r"^it takes 9\.0 ms"):
        main.run(**arguments, registry=root, name="m", budget=budget)
    assert asked == [(published, budget, {"otherwise": f"{published} stays as it is"})]
    assert champions(root) == (2, [1])
