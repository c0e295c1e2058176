from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from components.export.manifest import write_manifest
from components.export.promoting import promote_if
from components.export.registry import (
    CHAMPION_FILE,
    LOCK_FILE,
    NUMBERS_FILE,
    Entry,
    Numbers,
    RegisteredModel,
    check_name,
    find_model,
)
from model.errors import InputError


def registered(root: Path, name: str = "m") -> RegisteredModel:
    return RegisteredModel(str(root), name)


def stage(root: Path, *, name: str = "m", mark: str = "x") -> str:
    """Fills a staging folder as export does, as far as the registry looks at it."""
    staged = registered(root, name).stage()
    (Path(staged) / "saved_model.pb").write_text(mark, encoding="utf-8")
    return staged


def publish_new(root: Path, *, name: str = "m", mark: str = "x") -> Path:
    """Publishes a version and makes it the champion."""
    model = registered(root, name)
    version = Path(model.publish(stage(root, name=name, mark=mark)))
    before = model.champion()
    assert promote_if(model, int(version.name), champion=before and before.version)
    return version


def champion(root: Path, name: str = "m") -> int:
    content = json.loads((root / name / CHAMPION_FILE).read_text(encoding="utf-8"))
    assert list(content) == ["format", "version", "digest", "history", "newest", "reference"]
    return int(content["version"])


def names(root: Path, name: str = "m") -> list[str]:
    return sorted(os.listdir(root / name))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("models/m", ("models", "m")),
        ("./models/m/", ("./models", "m")),
        ("/models/m", ("/models", "m")),
        ("m", ("", "m")),
        (".", ("", ".")),
        ("/", ("/", "")),
    ],
)
def test_a_models_folder_gives_registry_and_name(path: str, expected: tuple[str, str]) -> None:
    model = RegisteredModel.at(path)
    assert model == RegisteredModel(*expected)
    assert model.folder == (path.rstrip("/") or path)
    assert model.version_folder(3) == f"{path.rstrip('/')}/3"


def test_versions_count_up(tmp_path: Path) -> None:
    for number in range(1, 12):
        assert publish_new(tmp_path, mark=str(number)) == tmp_path / "m" / str(number)
        assert champion(tmp_path) == number
    assert registered(tmp_path).versions() == list(range(1, 12))
    assert names(tmp_path) == sorted(
        [*map(str, range(1, 12)), CHAMPION_FILE, LOCK_FILE, NUMBERS_FILE]
    )
    for number in range(1, 12):
        assert (tmp_path / "m" / str(number) / "saved_model.pb").read_text() == str(number)


def test_models_are_apart(tmp_path: Path) -> None:
    publish_new(tmp_path, name="one")
    publish_new(tmp_path, name="one")
    publish_new(tmp_path, name="two")
    assert (champion(tmp_path, "one"), champion(tmp_path, "two")) == (2, 1)
    assert registered(tmp_path, "three").versions() == []


def test_numbers_are_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "m" / "7").mkdir(parents=True)  # even an empty one
    for name in ("8x", "-9", "1.5", ".staging-10", "latest"):
        (tmp_path / "m" / name).mkdir()
    assert registered(tmp_path).versions() == [7]
    assert publish_new(tmp_path).name == "8"


def test_a_version_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_new(tmp_path, mark="first")
    staged = stage(tmp_path, mark="mine")
    real = RegisteredModel.versions
    calls = 0

    def late(model: RegisteredModel) -> list[int]:
        """Another publisher takes the number between our looking and our renaming."""
        nonlocal calls
        calls += 1
        found = real(model)
        if calls == 1:
            (tmp_path / "m" / "2").mkdir()
            (tmp_path / "m" / "2" / "saved_model.pb").write_text("theirs", encoding="utf-8")
        return found

    monkeypatch.setattr(RegisteredModel, "versions", late)
    assert registered(tmp_path).publish(staged) == str(tmp_path / "m" / "3")
    texts = [(tmp_path / "m" / n / "saved_model.pb").read_text() for n in ("1", "2", "3")]
    assert texts == ["first", "theirs", "mine"]


def test_publishers_in_threads(tmp_path: Path) -> None:
    staged = [stage(tmp_path, mark=str(index)) for index in range(24)]
    got: dict[int, str] = {}
    start = threading.Barrier(len(staged))

    def run(index: int) -> None:
        start.wait()
        got[index] = registered(tmp_path).publish(staged[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(staged))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(Path(path).name) for path in got.values()) == list(range(1, 25))
    for index, path in got.items():
        assert (Path(path) / "saved_model.pb").read_text() == str(index)
    assert names(tmp_path) == sorted([*map(str, range(1, 25)), LOCK_FILE, NUMBERS_FILE])


def test_the_champion_is_swapped_whole(tmp_path: Path) -> None:
    publish_new(tmp_path)
    done = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not done.is_set():
            seen.append(champion(tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(100):
        publish_new(tmp_path)
    done.set()
    watcher.join()
    assert seen == sorted(seen)
    assert champion(tmp_path) == 101


def test_find_model(tmp_path: Path) -> None:
    for _ in range(2):
        publish_new(tmp_path)
    model = tmp_path / "m"
    assert find_model(str(model)) == str(model / "2")  # by name: the champion
    assert find_model(str(model / "1")) == str(model / "1")
    (model / CHAMPION_FILE).write_text('{"version": 1}', encoding="utf-8")
    assert find_model(str(model)) == str(model / "1")


def test_no_model_is_found(tmp_path: Path) -> None:
    publish_new(tmp_path)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "m" / "9"):
        with pytest.raises(InputError) as caught:
            find_model(str(path))
        assert str(caught.value) == (
            f"{path} is not an exported model; name a version's folder, <registry>/<name>/<number>"
        )


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"version": 9}', '{"version": null}', '{"version": ""}']
)
def test_a_damaged_champion_is_no_model(tmp_path: Path, content: str) -> None:
    publish_new(tmp_path)
    (tmp_path / "m" / CHAMPION_FILE).write_text(content, encoding="utf-8")
    problem = "names version 9, which is gone" if "9" in content else "is damaged"
    with pytest.raises(InputError, match=rf"^{tmp_path}/m/champion.json {problem}; charloom reg"):
        find_model(str(tmp_path / "m"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../m", "a/b", "/m", ".hidden", "-m", "_m", "a b", "é", "m\n", "m:1"]
)
def test_bad_names(tmp_path: Path, name: str) -> None:
    for call in (check_name, lambda name: registered(tmp_path / "new", name).stage()):
        with pytest.raises(InputError, match="must start with a letter or digit"):
            call(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 300, r"model name 'xxxxxxxxxxxxxxxxxxxx'\.\.\. is too long \(300 characters\); 128"),
        ("2026", "model name '2026' is a number, like a version; add a letter, such as m2026"),
    ],
)
def test_names_that_would_be_taken_for_others(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_name(name)


@pytest.mark.parametrize("name", ["m", "M1", "1a", "2026-11", "a.b_c-d", "x" * 128])
def test_good_names(name: str) -> None:
    check_name(name)


def test_staging_folders_are_new_and_readable(tmp_path: Path) -> None:
    folders = {registered(tmp_path / "new" / "registry").stage() for _ in range(3)}
    assert len(folders) == 3
    for folder in map(Path, folders):
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o777 == 0o755  # a server runs as someone else
        assert folder.parent == tmp_path / "new" / "registry" / "m"
    assert registered(tmp_path / "new" / "registry").versions() == []


def test_a_registry_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"can't be written \(Not a directory\); choose another"):
        registered(tmp_path / "file").stage()


def test_an_entry_of_a_pointer(tmp_path: Path) -> None:
    model = registered(tmp_path)
    folder = publish_new(tmp_path)
    digest = model.digest_of(1)
    assert model.folder_of(Entry(1, digest)) == str(folder)
    assert model.folder_of(Entry(1, None)) == str(folder)  # of an older charloom
    with pytest.raises(InputError, match=r"m/1 is not the version 1 that champion.json names"):
        model.folder_of(Entry(1, "other"))
    with pytest.raises(
        InputError, match="names version 2, which is gone; charloom registry promote"
    ):
        model.folder_of(Entry(2, digest))


def test_the_folder_of_the_reference(tmp_path: Path) -> None:
    model = registered(tmp_path)
    model_folder = tmp_path / "m"
    assert model.reference_folder() is None
    staged = stage(tmp_path)
    write_manifest(staged, {"checkpoint": "c"})
    folder = Path(model.publish(staged))
    assert promote_if(model, 1, champion=None)
    publish_new(tmp_path)
    assert model.reference_folder() == str(folder)
    write_manifest(str(folder), {"checkpoint": "d"})
    with pytest.raises(InputError, match=r"charloom registry rebase .* sets another reference"):
        model.reference_folder()
    shutil.rmtree(folder)  # it may be gone: evaluate then says so
    assert model.reference_folder() == str(model_folder / "1")


def test_which_versions_there_are_is_told(tmp_path: Path) -> None:
    model = registered(tmp_path)
    with pytest.raises(InputError, match=r"m has no version 1; there is none$"):
        model.check_version(1)
    publish_new(tmp_path)
    publish_new(tmp_path)
    model.check_version(2)
    with pytest.raises(InputError, match=r"m has no version 3; there are 1, 2$"):
        model.check_version(3)


def test_undecided_promotions(tmp_path: Path) -> None:
    model = registered(tmp_path)
    for _ in range(3):
        model.publish(stage(tmp_path))
    assert model.read_numbers() == Numbers(3, (1, 2, 3))
    model.settle(2)
    assert model.read_numbers() == Numbers(3, (1, 3))
    model.settle(2)
    assert model.read_numbers() == Numbers(3, (1, 3))


def test_the_lock_keeps_others_out(tmp_path: Path) -> None:
    publish_new(tmp_path)
    with (
        registered(tmp_path).locked(),
        open(tmp_path / "m" / LOCK_FILE, "a") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
