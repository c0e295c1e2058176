"""Champion, pins and collection, on versions of a few bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.export.manifest import MANIFEST_FILE, read_manifest, verify, write_manifest
from components.export.promoting import (
    STALE_SECONDS,
    collect,
    pin,
    promote,
    promote_if,
    read_pins,
    rollback,
)
from components.export.registry import (
    CHAMPION_FILE,
    champion_folder,
    find_model,
    publish,
    read_champion,
    read_pointer,
    staging_folder,
    version_digest,
    versions,
)
from model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def publish_new(root: Path) -> int:
    staged = Path(staging_folder(str(root), "m"))
    (staged / "saved_model.pb").write_text("model")
    (staged / "variables").mkdir()
    (staged / "variables" / "variables.index").write_text("weights")
    write_manifest(str(staged), {"checkpoint": "c"})
    return int(Path(publish(str(root), "m", staged=str(staged))).name)


def champions(root: str) -> tuple[int, tuple[int, ...]]:
    """Returns the numbers of the champion and of those before it."""
    pointer = read_pointer(f"{root}/m")
    assert pointer is not None
    return pointer.version, tuple(entry.version for entry in pointer.history)


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A registry with five versions, the second one champion after the first."""
    for _ in range(5):
        publish_new(tmp_path)
    promote(str(tmp_path), "m", 1)
    promote(str(tmp_path), "m", 2)
    return str(tmp_path)


def test_promotion_and_rollback(root: str) -> None:
    assert champions(root) == (2, (1,))
    assert promote(root, "m", 4) == 2
    assert promote(root, "m", 4) == 4  # nothing changes
    assert champions(root) == (4, (1, 2))
    assert rollback(root, "m") == (4, 2)
    assert rollback(root, "m") == (2, 1)
    assert champions(root) == (1, ())
    with pytest.raises(InputError) as caught:
        rollback(root, "m")
    assert str(caught.value) == (
        f"{root}/m had no champion before; charloom registry promote takes any version"
    )
    assert json.loads(Path(root, "m", CHAMPION_FILE).read_text()) == {
        "format": 2,
        "version": 1,
        "digest": version_digest(f"{root}/m/1"),
        "history": [],
        "newest": 5,
        "reference": {"version": 1, "digest": version_digest(f"{root}/m/1")},
    }


def test_without_a_champion(tmp_path: Path) -> None:
    assert read_champion(str(tmp_path), "m") is None
    assert champion_folder(str(tmp_path), "m") is None
    publish_new(tmp_path)
    assert champion_folder(str(tmp_path), "m") is None
    with pytest.raises(InputError, match="had no champion before"):
        rollback(str(tmp_path), "m")
    assert promote(str(tmp_path), "m", 1) is None
    assert champion_folder(str(tmp_path), "m") == f"{tmp_path}/m/1" == find_model(f"{tmp_path}/m")


def test_promotion_on_condition(root: str) -> None:
    assert not promote_if(root, "m", 3, champion=1)
    assert not promote_if(root, "m", 3, champion=None)
    assert champions(root) == (2, (1,))
    assert promote_if(root, "m", 3, champion=2)
    assert champions(root) == (3, (1, 2))


def test_a_pointer_of_an_older_charloom(root: str) -> None:
    Path(root, "m", CHAMPION_FILE).write_text('{"version": 5}\n')
    assert champions(root) == (5, ())
    promote(root, "m", 3)
    assert rollback(root, "m") == (3, 5)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": "1"}', '{"version": 1, "history": 3}', '{"version"']
)
def test_a_damaged_pointer_is_made_anew_by_promote(root: str, content: str) -> None:
    Path(root, "m", CHAMPION_FILE).write_text(content)
    for call in (rollback, read_champion):
        with pytest.raises(InputError, match=r"champion.json is damaged; charloom registry promot"):
            call(root, "m")
    assert promote(root, "m", 3) is None
    assert champions(root) == (3, ())


def test_a_version_that_is_not_there(root: str) -> None:
    for call in (promote, pin):
        with pytest.raises(InputError) as caught:
            call(root, "m", 9)
        assert str(caught.value) == f"{root}/m has no version 9; there are 1, 2, 3, 4, 5"
    with pytest.raises(InputError, match=r"/other has no version 1; there is none$"):
        promote(root, "other", 1)
    assert not Path(root, "other").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda v: (v / "saved_model.pb").unlink(), "saved_model.pb is missing"),
        (lambda v: (v / "saved_model.pb").write_text("mode1"), "saved_model.pb was changed"),
        (
            lambda v: (v / "variables" / "variables.index").write_text(""),
            "variables/variables.index has 0 bytes, not 7",
        ),
        (lambda v: (v / "more").touch(), "more is not of this version"),
    ],
)
def test_a_damaged_version_is_not_promoted(root: str, damage: object, problem: str) -> None:
    damage(Path(root, "m", "1"))  # type: ignore[operator]
    assert verify(f"{root}/m/1") == [problem]
    for call in (lambda: promote(root, "m", 1), lambda: rollback(root, "m")):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == f"{root}/m/1 is damaged: {problem}; take another version"
    assert champions(root) == (2, (1,))


def test_a_version_without_a_manifest_is_not_promoted(root: str) -> None:
    path = Path(root, "m", "3", MANIFEST_FILE)
    for content in ("", "[]", '{"manifest_version": 2}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"MANIFEST.json is missing or damaged"):
            promote(root, "m", 3)


def test_what_a_manifest_says(root: str) -> None:
    manifest = read_manifest(f"{root}/m/1")
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


def test_collection_keeps_what_may_be_needed(root: str) -> None:
    pin(root, "m", 3)
    assert read_pins(root, "m") == [3]
    assert collect(root, "m", keep=1, dry_run=True) == [4]
    assert versions(root, "m") == [1, 2, 3, 4, 5]
    assert collect(root, "m", keep=1) == [4]  # 2 is champion, 1 was it before, 5 is the newest
    assert versions(root, "m") == [1, 2, 3, 5]
    pin(root, "m", 3, pinned=False)
    promote(root, "m", 5)
    assert collect(root, "m", keep=1) == [3]  # 1 is the reference, being the first champion
    assert versions(root, "m") == [1, 2, 5]
    assert rollback(root, "m") == (5, 2)
    files = [".lock", "champion.json", "numbers.json", "pins.json"]
    assert sorted(os.listdir(f"{root}/m")) == sorted(["1", "2", "5", *files])


def test_rollback_passes_over_what_was_collected(root: str) -> None:
    for version in (3, 4, 5):
        promote(root, "m", version)
    assert collect(root, "m", keep=1) == [2, 3]  # 1 is the reference
    assert champions(root) == (5, (1, 2, 3, 4))
    assert rollback(root, "m") == (5, 4)
    assert champions(root) == (4, (1,))


def test_collection_takes_what_dead_publishers_left(root: str) -> None:
    stale, fresh = (Path(staging_folder(root, "m")) for _ in range(2))
    (stale / "saved_model.pb").touch()
    now = stale.stat().st_mtime
    os.utime(stale, (now, now - STALE_SECONDS - 60))
    Path(root, "m", ".removed-abc").mkdir()
    assert collect(root, "m", keep=9) == []
    hidden = [name for name in os.listdir(f"{root}/m") if name.startswith(".")]
    assert sorted(hidden) == [".lock", fresh.name]


def test_bad_collections(root: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--keep is 0; it must be at least 1"):
        collect(root, "m", keep=0)
    with pytest.raises(InputError, match="can't be changed"):
        collect(root, "other", keep=1)
    Path(root, "m", "pins.json").write_text("{")
    with pytest.raises(InputError, match=r"pins\.json is damaged"):
        collect(root, "m", keep=1)
    assert versions(root, "m") == [1, 2, 3, 4, 5]


PUBLISHER = """
import os, sys, time
from pathlib import Path
from components.export import registry
from components.export.manifest import write_manifest
from components.export.promoting import promote
from components.export.registry import locked, publish, staging_folder

root, mark, count, stop_at = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
os.getpid = lambda: 7  # two containers may give their processes the same id

def wait_at(point):
    if stop_at == point:
        print(point, flush=True)
        time.sleep(600)

print("ready", flush=True)
sys.stdin.readline()
for index in range(count):
    staged = staging_folder(root, "m")
    (Path(staged) / "saved_model.pb").write_text(f"{mark}{index}" * 100)
    wait_at("filling")
    write_manifest(staged, {"checkpoint": f"{mark}{index}"})
    version = int(Path(publish(root, "m", staged=staged)).name)
    wait_at("published")
    if stop_at == "locked":
        with locked(root, "m"):
            wait_at("locked")
    promote(root, "m", version)
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

    published = 7 * count + (point != "filling")
    assert versions(root, "m") == list(range(1, published + 1))
    digests = [
        read_manifest(f"{root}/m/{one}")["digests"]["checkpoint"] for one in versions(root, "m")
    ]
    expected = {f"{mark}{index}" for mark in "abcdefg" for index in range(count)}
    assert set(digests) == expected | ({"h0"} if point != "filling" else set())
    assert len(set(digests)) == published  # no version is another's
    assert all(verify(f"{root}/m/{one}") == [] for one in versions(root, "m"))
    champion, before = champions(root)
    assert len({*before, champion}) == len(before) + 1 == 7 * count  # each was champion once
    assert champion_folder(root, "m") == f"{root}/m/{champion}"
    left = [name for name in os.listdir(f"{root}/m") if name.startswith(".staging-")]
    assert len(left) == (point == "filling")
    assert publish_new(tmp_path) == published + 1  # and it goes on
    assert promote(root, "m", published + 1) == champion


def test_a_version_that_was_collected_meanwhile_is_not_promoted(root: str) -> None:
    assert not promote_if(root, "m", 9, champion=2)
    assert champions(root) == (2, (1,))
    assert promote_if(root, "m", 5, champion=2)
