"""Champion, pins and collection, on versions of a few bytes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.export.manifest import MANIFEST_FILE, read_manifest, verify, write_manifest
from components.export.promoting import (
    collect,
    pin,
    promote,
    promote_if,
    read_pins,
    rebase,
    rollback,
)
from components.export.registry import CHAMPION_FILE, Numbers, RegisteredModel, find_model
from model.errors import InputError
from model.files import STALE_SECONDS

ROOT = Path(__file__).resolve().parent.parent


def publish_new(model: RegisteredModel) -> int:
    staged = Path(model.stage())
    (staged / "saved_model.pb").write_text("model")
    (staged / "variables").mkdir()
    (staged / "variables" / "variables.index").write_text("weights")
    write_manifest(str(staged), {"checkpoint": "c"})
    return int(Path(model.publish(str(staged))).name)


def champions(model: RegisteredModel) -> tuple[int, tuple[int, ...]]:
    """Returns the numbers of the champion and of those before it."""
    pointer = model.read_pointer()
    assert pointer is not None
    return pointer.version, tuple(entry.version for entry in pointer.history)


@pytest.fixture
def model(tmp_path: Path) -> RegisteredModel:
    """A model with five versions, the second one champion after the first."""
    model = RegisteredModel(str(tmp_path), "m")
    for _ in range(5):
        publish_new(model)
    promote(model, 1)
    promote(model, 2)
    return model


def test_promotion_and_rollback(model: RegisteredModel) -> None:
    assert champions(model) == (2, (1,))
    assert promote(model, 4) == 2
    assert promote(model, 4) == 4  # nothing changes
    assert champions(model) == (4, (1, 2))
    assert rollback(model) == (4, 2)
    assert rollback(model) == (2, 1)
    assert champions(model) == (1, ())
    with pytest.raises(InputError) as caught:
        rollback(model)
    assert str(caught.value) == (
        f"{model.folder} had no champion before; charloom registry promote accepts any version"
    )
    assert json.loads(Path(model.folder, CHAMPION_FILE).read_text()) == {
        "format": 2,
        "version": 1,
        "digest": model.digest_of(1),
        "history": [],
        "newest": 5,
        "reference": {"version": 1, "digest": model.digest_of(1)},
    }


def test_without_a_champion(tmp_path: Path) -> None:
    model = RegisteredModel(str(tmp_path), "m")
    assert model.champion() is None
    assert model.champion_folder() is None
    publish_new(model)
    assert model.champion_folder() is None
    with pytest.raises(InputError, match="had no champion before"):
        rollback(model)
    assert promote(model, 1) is None
    assert model.champion_folder() == f"{tmp_path}/m/1" == find_model(f"{tmp_path}/m")


def test_promotion_on_condition(model: RegisteredModel) -> None:
    assert not promote_if(model, 3, champion=1)
    assert not promote_if(model, 3, champion=None)
    assert champions(model) == (2, (1,))
    assert promote_if(model, 3, champion=2)
    assert champions(model) == (3, (1, 2))


def test_a_pointer_of_an_older_charloom(model: RegisteredModel) -> None:
    Path(model.folder, CHAMPION_FILE).write_text('{"version": 5}\n')
    assert champions(model) == (5, ())
    promote(model, 3)
    assert rollback(model) == (3, 5)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": "1"}', '{"version": 1, "history": 3}', '{"version"']
)
def test_a_damaged_pointer_is_made_anew_by_promote(model: RegisteredModel, content: str) -> None:
    Path(model.folder, CHAMPION_FILE).write_text(content)
    for call in (rollback, RegisteredModel.champion):
        with pytest.raises(InputError, match=r"champion.json is damaged; charloom registry promot"):
            call(model)
    assert promote(model, 3) is None
    assert champions(model) == (3, ())


def test_a_version_that_is_not_there(model: RegisteredModel) -> None:
    for call in (promote, pin):
        with pytest.raises(InputError) as caught:
            call(model, 9)
        assert str(caught.value) == f"{model.folder} has no version 9; there are 1, 2, 3, 4, 5"
    with pytest.raises(InputError, match=r"/other has no version 1; there is none$"):
        promote(RegisteredModel(model.registry, "other"), 1)
    assert not Path(model.registry, "other").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda v: (v / "saved_model.pb").unlink(), "saved_model.pb is missing"),
        (lambda v: (v / "saved_model.pb").write_text("mode1"), "saved_model.pb was changed"),
        (
            lambda v: (v / "variables" / "variables.index").write_text(""),
            "variables/variables.index has 0 bytes, not 7",
        ),
        (lambda v: (v / "more").touch(), "more does not belong to this version"),
    ],
)
def test_a_damaged_version_is_not_promoted(
    model: RegisteredModel, damage: object, problem: str
) -> None:
    damage(Path(model.folder, "1"))  # type: ignore[operator]
    assert verify(f"{model.folder}/1") == [problem]
    for call in (lambda: promote(model, 1), lambda: rollback(model)):
        with pytest.raises(InputError) as caught:
            call()
        assert (
            str(caught.value) == f"{model.folder}/1 is damaged: {problem}; choose another version"
        )
    assert champions(model) == (2, (1,))


def test_a_version_without_a_manifest_is_not_promoted(model: RegisteredModel) -> None:
    path = Path(model.folder, "3", MANIFEST_FILE)
    for content in ("", "[]", '{"manifest_version": 2}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"MANIFEST.json is missing or damaged"):
            promote(model, 3)


def test_what_a_manifest_says(model: RegisteredModel) -> None:
    manifest = read_manifest(f"{model.folder}/1")
    assert manifest["digests"] == {"checkpoint": "c"}
    assert manifest["files"] == {
        "saved_model.pb": {
            "bytes": 5,
            "sha256": "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4",
        },
        "variables/variables.index": {
            "bytes": 7,
            "sha256": manifest["files"]["variables/variables.index"]["sha256"],
        },
    }


def test_collection_keeps_what_may_be_needed(model: RegisteredModel) -> None:
    pin(model, 3)
    assert read_pins(model) == [3]
    assert collect(model, keep=1, dry_run=True) == [4]
    assert model.versions() == [1, 2, 3, 4, 5]
    assert collect(model, keep=1) == [4]  # 2 is champion, 1 was it before, 5 is the newest
    assert model.versions() == [1, 2, 3, 5]
    pin(model, 3, pinned=False)
    promote(model, 5)
    assert collect(model, keep=1) == [3]  # 1 is the reference, being the first champion
    assert model.versions() == [1, 2, 5]
    assert rollback(model) == (5, 2)
    files = [".lock", "champion.json", "numbers.json", "pins.json"]
    assert sorted(os.listdir(model.folder)) == sorted(["1", "2", "5", *files])


def test_rollback_passes_over_what_was_collected(model: RegisteredModel) -> None:
    for version in (3, 4, 5):
        promote(model, version)
    assert collect(model, keep=1) == [2, 3]  # 1 is the reference
    assert champions(model) == (5, (1, 2, 3, 4))
    assert rollback(model) == (5, 4)
    assert champions(model) == (4, (1,))


def test_collection_takes_what_dead_publishers_left(model: RegisteredModel) -> None:
    stale, fresh = (Path(model.stage()) for _ in range(2))
    (stale / "saved_model.pb").touch()
    now = stale.stat().st_mtime
    os.utime(stale, (now, now - STALE_SECONDS - 60))
    Path(model.folder, ".removed-abc").mkdir()
    assert collect(model, keep=9) == []
    hidden = [name for name in os.listdir(model.folder) if name.startswith(".")]
    assert sorted(hidden) == [".lock", fresh.name]


def test_bad_collections(model: RegisteredModel) -> None:
    with pytest.raises(InputError, match="--keep is 0; it must be at least 1"):
        collect(model, keep=0)
    with pytest.raises(InputError, match="can't be changed"):
        collect(RegisteredModel(model.registry, "other"), keep=1)
    Path(model.folder, "pins.json").write_text("{")
    with pytest.raises(InputError, match=r"pins\.json is damaged"):
        collect(model, keep=1)
    assert model.versions() == [1, 2, 3, 4, 5]


PUBLISHER = """
import os, sys, time
from pathlib import Path
from components.export.manifest import write_manifest
from components.export.promoting import promote
from components.export.registry import RegisteredModel

root, mark, count, stop_at = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
model = RegisteredModel(root, "m")
os.getpid = lambda: 7  # two containers may give their processes the same id

def wait_at(point):
    if stop_at == point:
        print(point, flush=True)
        time.sleep(600)

print("ready", flush=True)
sys.stdin.readline()
for index in range(count):
    staged = model.stage()
    (Path(staged) / "saved_model.pb").write_text(f"{mark}{index}" * 100)
    wait_at("filling")
    write_manifest(staged, {"checkpoint": f"{mark}{index}"})
    version = int(Path(model.publish(staged)).name)
    wait_at("published")
    if stop_at == "locked":
        with model.locked():
            wait_at("locked")
    promote(model, version)
"""


@pytest.mark.parametrize("point", ["filling", "published", "locked"])
def test_eight_publishers_at_once_one_killed(tmp_path: Path, point: str) -> None:
    root, count = str(tmp_path), 6
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, root, mark, str(count), point * (mark == "h")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mark in "abcdefgh"
    ]
    victim = publishers[-1]
    for process in publishers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in publishers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert victim.stdout is not None
    assert victim.stdout.readline() == f"{point}\n"
    victim.send_signal(signal.SIGKILL)
    assert [process.wait(timeout=300) for process in publishers] == [0] * 7 + [-signal.SIGKILL]

    model = RegisteredModel(root, "m")
    published = 7 * count + (point != "filling")
    assert model.versions() == list(range(1, published + 1))
    digests = [
        read_manifest(f"{model.folder}/{one}")["digests"]["checkpoint"] for one in model.versions()
    ]
    expected = {f"{mark}{index}" for mark in "abcdefg" for index in range(count)}
    assert set(digests) == expected | ({"h0"} if point != "filling" else set())
    assert len(set(digests)) == published  # no version is another's
    assert all(verify(f"{model.folder}/{one}") == [] for one in model.versions())
    champion, before = champions(model)
    assert len({*before, champion}) == len(before) + 1 == 7 * count  # each was champion once
    assert model.champion_folder() == f"{model.folder}/{champion}"
    left = [name for name in os.listdir(model.folder) if name.startswith(".staging-")]
    assert len(left) == (point == "filling")
    assert publish_new(model) == published + 1  # and it goes on
    assert promote(model, published + 1) == champion


def test_a_version_that_was_collected_meanwhile_is_not_promoted(model: RegisteredModel) -> None:
    assert not promote_if(model, 9, champion=2)
    assert champions(model) == (2, (1,))
    assert promote_if(model, 5, champion=2)


def test_a_publication_that_another_process_finished_is_settled(model: RegisteredModel) -> None:
    version = publish_new(model)
    assert version in model.read_numbers().unfinished
    promote(model, version)
    model.write_numbers(Numbers(version, (3, version)))
    assert promote_if(model, version, champion=99)  # it is the champion, whoever made it so
    assert champions(model)[0] == version
    assert model.read_numbers().unfinished == (3,)


@pytest.mark.parametrize(
    ("relation", "digest", "moves"),
    [
        ("better", "c", True),
        ("better", "other", False),
        ("not worse", "c", False),
        (None, "c", False),
    ],
)
@pytest.mark.parametrize("given", [True, False])
def test_the_reference_moves_to_what_was_better_than_it(
    model: RegisteredModel, relation: str | None, digest: str, moves: bool, given: bool
) -> None:
    """By the report of the comparison, or by the version's own."""
    assert reference_of(model) == 1
    report = {
        "verdict": {"reference": {"relation": relation}},
        "reference": {"checkpoint_digest": digest},
    }
    (Path(model.version_folder(4)) / "report.json").write_text(
        "{}" if given else json.dumps(report)
    )
    write_manifest(model.version_folder(4), {"checkpoint": "c"})
    assert promote_if(model, 4, champion=2, report=report if given else None)
    assert reference_of(model) == (4 if moves else 1)


def test_a_reference_that_was_replaced_stays(model: RegisteredModel) -> None:
    """Nobody knows whether the new version is better than what had its number."""
    write_manifest(model.version_folder(1), {"checkpoint": "d"})
    report = {
        "verdict": {"reference": {"relation": "better"}},
        "reference": {"checkpoint_digest": "d"},
    }
    assert promote_if(model, 4, champion=2, report=report)
    assert reference_of(model) == 1
    with pytest.raises(
        InputError, match=r"charloom registry rebase .* VERSION sets another referen"
    ):
        collect(model, keep=1)


def test_rebase(model: RegisteredModel) -> None:
    assert rebase(model, 3) == 1
    assert rebase(model, 4) == 3
    assert reference_of(model) == 4
    assert champions(model) == (2, (1,))
    with pytest.raises(InputError, match=r"m has no version 9; there are 1, 2, 3, 4, 5$"):
        rebase(model, 9)
    os.remove(os.path.join(model.folder, CHAMPION_FILE))
    with pytest.raises(InputError, match="m has no champion, so it needs no reference; "):
        rebase(model, 3)


@pytest.mark.parametrize("change", [pin, rebase])
def test_a_version_that_goes_while_the_lock_is_awaited(
    model: RegisteredModel, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = RegisteredModel.locked

    @contextlib.contextmanager
    def late(model: RegisteredModel) -> Iterator[None]:
        shutil.rmtree(model.version_folder(3))
        with locked(model):
            yield

    monkeypatch.setattr(RegisteredModel, "locked", late)
    with pytest.raises(InputError, match=r"m has no version 3; there are 1, 2, 4, 5$"):
        change(model, 3)
    assert read_pins(model) == []
    assert reference_of(model) == 1


def reference_of(model: RegisteredModel) -> int | None:
    pointer = model.read_pointer()
    assert pointer is not None
    return pointer.reference.version if pointer.reference else None
