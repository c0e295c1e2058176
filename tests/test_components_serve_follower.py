"""Which version is served when pointer and folders change in odd order, or versions are damaged."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from clocks import Clock
from serving import NAME, share_registry

from components.export.manifest import write_manifest
from components.export.pointer import Entry, Pointer
from components.export.promoting import promote, rollback
from components.export.registry import RegisteredModel, version_digest
from components.serve import follower as module
from components.serve.follower import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, ChampionFollower
from components.serve.loaded import LoadedVersion
from components.serve.metrics import Metrics
from components.serve.model_process import ModelProcess
from model.errors import InputError


class FakeVersion:
    """Loads nothing; fails where the folder holds a file `broken`."""

    loaded: list[str]

    def __init__(self, path: str):
        self.path, self.number, self.load_seconds = path, int(os.path.basename(path)), 0.0
        self.alive, self.retired = True, False
        self.digest = version_digest(path)
        FakeVersion.loaded.append(path)
        if os.path.exists(os.path.join(path, "broken")):
            raise InputError(f"{path} is broken")

    def retire(self) -> None:
        self.retired = True


class Lab:
    """A model whose versions are folders with a manifest, and a follower with a clock of ours."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        FakeVersion.loaded = []
        self.folder = folder / "registry" / "lm"
        self.model = RegisteredModel.at(str(self.folder))
        self.clock = Clock(100.0)
        monkeypatch.setattr(module, "time", self.clock)
        self.version: Callable[[str], FakeVersion] = FakeVersion
        self.make(1)
        self.point(1)
        self.metrics = Metrics()
        self.follower = ChampionFollower(str(self.folder), self.metrics, self.load)
        FakeVersion.loaded.clear()

    def load(self, path: str) -> ModelProcess:
        return cast(ModelProcess, self.version(path))

    def make(self, number: int, content: str = "", *, broken: bool = False) -> None:
        version = self.folder / str(number)
        version.mkdir(parents=True)
        (version / "content").write_text(content)
        if broken:
            (version / "broken").write_text("")
        write_manifest(str(version), {"checkpoint": content})

    def point(self, number: int, digest: str | None = None) -> None:
        self.model.write_pointer(Pointer(number, digest))

    def digest(self, number: int) -> str | None:
        return self.model.digest_of(number)

    def look(self) -> tuple[int, str]:
        """Returns which version is served, and what /readyz says of it."""
        self.follower.look()
        state = self.follower.state()
        metrics = self.metrics.to_text().decode().splitlines()
        champion, served = state["champion"], (state["version"], state["digest"])
        behind = champion is None or (champion["version"], champion["digest"]) != served
        assert f"charloom_model_behind {float(behind)}" in metrics
        assert f"charloom_model_version {float(state['version'])}" in metrics
        champion = state["champion"]["version"] if state["champion"] else 0
        assert f"charloom_champion_version {float(champion)}" in metrics
        return state["version"], state["status"]

    def failures(self) -> int:
        lines = self.metrics.to_text().decode().splitlines()
        (line,) = [one for one in lines if one.startswith("charloom_model_load_failures_total ")]
        return int(float(line.split()[1]))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, monkeypatch)


def test_a_folder_that_comes_after_the_pointer_is_served(lab: Lab, tmp_path: Path) -> None:
    lab.make(2)
    hidden = tmp_path / "2"
    (lab.folder / "2").rename(hidden)
    lab.model.write_pointer(Pointer(2, version_digest(str(hidden))))
    assert lab.look() == (1, "behind")
    state = lab.follower.state()
    assert state["champion"] == {"version": 2, "digest": version_digest(str(hidden))}
    assert state["problem"].startswith(f"{lab.folder}/champion.json names version 2, which is gone")
    assert lab.look() == (1, "behind")  # not tried: its time has not come, nothing has changed
    assert (lab.failures(), FakeVersion.loaded) == (1, [])
    hidden.rename(lab.folder / "2")
    assert lab.look() == (2, "ok")  # at once, as the manifest is there
    assert lab.follower.state()["problem"] == ""


def test_a_version_that_fails_is_tried_again_ever_more_seldom(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.make(2, broken=True)
    lab.point(2)
    waits, since = [], lab.clock.now
    with caplog.at_level(logging.ERROR):
        for _ in range(2000):
            before = lab.failures()
            assert lab.look() == (1, "behind")
            if lab.failures() > before:
                waits.append(lab.clock.now - since)
                since = lab.clock.now
            lab.clock.now += 0.25
    assert waits[:8] == [0, 1, 2, 4, 8, 16, 32, 60]
    assert set(waits[7:]) == {MAX_RETRY_SECONDS}
    assert FIRST_RETRY_SECONDS == 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"{lab.folder}/2 is broken; version 1 stays in use; will retry"]
    os.remove(lab.folder / "2" / "broken")  # its manifest stays as it was
    lab.clock.now += MAX_RETRY_SECONDS
    assert lab.look() == (2, "ok")


def test_a_failure_of_one_champion_does_not_put_off_another(lab: Lab) -> None:
    lab.make(2, broken=True)
    lab.make(3)
    lab.point(2)
    assert lab.look() == (1, "behind")
    lab.point(3)
    assert lab.look() == (3, "ok")
    lab.point(2)  # again: tried at once
    assert lab.look() == (3, "behind")
    assert lab.failures() == 2
    lab.point(1)
    assert lab.look() == (1, "ok")
    assert FakeVersion.loaded.count(f"{lab.folder}/1") == 0  # it was kept for a rollback


@pytest.mark.parametrize("old_form", [False, True])
def test_a_number_that_has_become_another_version_is_loaded_anew(lab: Lab, old_form: bool) -> None:
    before = lab.follower.current
    shutil.rmtree(lab.folder / "1")
    assert lab.look() == (1, "ok")  # what the pointer names is in memory
    lab.make(1, "another")
    if old_form:
        (lab.folder / "champion.json").write_text('{"version": 1, "history": []}')
    else:
        assert lab.look() == (1, "ok")
        lab.point(1, lab.digest(1))
    assert lab.look() == (1, "ok")
    assert lab.follower.current is not before
    assert lab.follower.version(1) is lab.follower.current
    assert lab.follower.state()["digest"] == lab.digest(1)
    assert FakeVersion.loaded == [f"{lab.folder}/1"]


def test_a_rollback_to_a_number_that_was_given_out_again_loads_it(lab: Lab) -> None:
    lab.make(2)
    lab.point(2)
    assert lab.look() == (2, "ok")
    shutil.rmtree(lab.folder / "1")
    lab.make(1, "another")
    lab.point(1)
    assert lab.look() == (1, "ok")
    assert lab.follower.state()["digest"] == lab.digest(1)
    assert FakeVersion.loaded == [f"{lab.folder}/2", f"{lab.folder}/1"]


def test_a_pointer_that_can_not_be_read_keeps_what_is_served(lab: Lab) -> None:
    pointer = lab.folder / "champion.json"
    text = pointer.read_text()
    pointer.write_text("{")
    assert lab.look() == (1, "behind")
    assert lab.follower.state()["problem"].startswith(f"{pointer} is damaged; ")
    pointer.unlink()
    assert lab.look() == (1, "behind")
    assert lab.follower.state()["problem"] == f"{pointer} is gone"
    pointer.write_text(text)
    assert lab.look() == (1, "ok")
    assert lab.failures() == 0


def test_a_champion_that_is_rolled_back_while_it_is_loaded_is_not_served(lab: Lab) -> None:
    lab.make(2)
    lab.point(2)

    class Slow(FakeVersion):
        def __init__(self, path: str):
            super().__init__(path)
            lab.point(1)

    lab.version = Slow
    assert lab.look() == (1, "behind")
    assert lab.look() == (1, "ok")
    assert lab.failures() == 0


def test_the_state_names_served_version_champion_and_problem(lab: Lab) -> None:
    first, problem = lab.digest(1), f"{lab.folder}/2 is broken"
    served = {"version": 1, "digest": first}
    assert lab.look() == (1, "ok")
    assert lab.follower.state() == {"status": "ok", **served, "champion": served, "problem": ""}
    lab.make(2, broken=True)
    lab.point(2, lab.digest(2))
    assert lab.look() == (1, "behind")
    champion = {"version": 2, "digest": lab.digest(2)}
    behind = {"status": "behind", **served, "champion": champion, "problem": problem}
    assert lab.follower.state() == behind
    (lab.folder / "champion.json").unlink()
    assert lab.look() == (1, "behind")
    gone = f"{lab.folder}/champion.json is gone"
    assert lab.follower.state() == {**behind, "champion": None, "problem": gone}


def test_a_version_that_is_named_by_its_folder_follows_nothing(lab: Lab) -> None:
    (lab.folder / "1" / "saved_model.pb").touch()
    metrics = Metrics()
    follower = ChampionFollower(str(lab.folder / "1"), metrics, lab.load)
    assert follower.state() == {"status": "ok", "version": 1, "digest": lab.digest(1)}
    assert "charloom_model_behind 0.0" in metrics.to_text().decode().splitlines()


def test_a_folder_that_is_replaced_while_it_is_loaded_is_not_served(lab: Lab) -> None:
    lab.make(2)
    lab.point(2, lab.digest(2))

    class Replaced(FakeVersion):
        def __init__(self, path: str):
            super().__init__(path)
            self.digest = "0" * 64  # of the version that has just taken its place

    lab.version = Replaced
    assert lab.look() == (1, "behind")
    lab.version = FakeVersion
    problem = f"{lab.folder}/2 was replaced while it was being loaded"
    assert lab.follower.state()["problem"] == problem
    assert lab.failures() == 1
    lab.clock.now += FIRST_RETRY_SECONDS
    assert lab.look() == (2, "ok")


def version(lab: Lab) -> FakeVersion:
    """Returns the served version."""
    return cast(FakeVersion, lab.follower.current)


def test_a_version_that_is_no_longer_needed_is_ended(lab: Lab) -> None:
    served = [version(lab)]
    for number in (2, 3, 4):
        lab.make(number)
        lab.point(number)
        assert lab.look() == (number, "ok")
        served.append(version(lab))
    assert [one.retired for one in served] == [True, True, False, False]
    lab.point(3)  # a rollback to the one that was kept
    assert lab.look() == (3, "ok")
    assert version(lab) is served[2]
    assert [one.retired for one in served] == [True, True, False, False]


def test_a_version_that_was_loaded_for_nothing_is_ended(lab: Lab) -> None:
    lab.make(2)
    lab.point(2)
    loaded: list[FakeVersion] = []

    class Slow(FakeVersion):
        def __init__(self, path: str):
            super().__init__(path)
            loaded.append(self)
            lab.point(1)

    lab.version = Slow
    lab.look()
    assert [one.retired for one in loaded] == [True]


def test_a_version_whose_process_has_ended_is_started_again(lab: Lab) -> None:
    ended = version(lab)
    ended.alive = False
    assert lab.follower.state()["status"] == "restarting"
    assert lab.look() == (1, "ok")
    assert version(lab) is not ended
    assert FakeVersion.loaded == [f"{lab.folder}/1"]
    assert "charloom_model_process_ends_total 1.0" in lab.metrics.to_text().decode()


@pytest.mark.parametrize("named", ["the champion", "a version"])
def test_it_keeps_trying_to_start_a_process_again(lab: Lab, named: str) -> None:
    if named == "a version":
        (lab.folder / "1" / "saved_model.pb").touch()
        write_manifest(str(lab.folder / "1"), {"checkpoint": ""})
        lab.follower = ChampionFollower(str(lab.folder / "1"), lab.metrics, lab.load)
    version(lab).alive = False
    (lab.folder / "1" / "broken").touch()
    lab.follower.look()
    assert lab.follower.state()["problem"] == f"{lab.folder}/1 is broken"
    lab.follower.look()
    assert lab.failures() == 1
    (lab.folder / "1" / "broken").unlink()
    lab.clock.now += FIRST_RETRY_SECONDS
    lab.follower.look()
    assert lab.follower.state()["status"] == "ok"


def test_the_version_before_is_served_while_none_can_be_started(lab: Lab) -> None:
    first = version(lab)
    lab.make(2)
    lab.point(2)
    assert lab.look() == (2, "ok")
    version(lab).alive = False
    (lab.folder / "2" / "broken").touch()
    assert lab.look() == (1, "behind")
    assert version(lab) is first
    assert lab.follower.version(2) is None
    first.alive = False  # neither can be started
    (lab.folder / "1" / "broken").touch()
    assert lab.look() == (1, "restarting")
    (lab.folder / "1" / "broken").unlink()
    lab.clock.now += MAX_RETRY_SECONDS
    assert lab.look() == (1, "behind")
    assert not first.alive
    assert version(lab).alive
    lab.make(3)
    lab.point(3)
    assert lab.look() == (3, "ok")


# From here on with real models, which take a while to make and to load.


class LoadedHere(LoadedVersion):
    """A version in this process, which does not end before the test."""

    alive = True


def load_here(path: str) -> ModelProcess:
    return cast(ModelProcess, LoadedHere(path))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    return share_registry(tmp_path_factory)


@pytest.fixture
def model(published: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "registry" / NAME))


def change_weights(version: Path) -> None:
    """Changes a byte of the weights, whose file keeps its size."""
    (path,) = (version / "variables").glob("*.data*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_answers(version: Path) -> None:
    """Changes what was recorded, with a manifest that fits."""
    path = version / "requests.json"
    content = json.loads(path.read_text())
    content["requests"][0]["outputs"]["log_likelihood"][0] += 0.01
    path.write_text(json.dumps(content))
    write_manifest(str(version), {"checkpoint": "1"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (change_weights, r"variables.data-00000-of-00001 was changed; publish it again"),
        (
            lambda version: (version / "extra").write_text(""),
            r"extra does not belong to this version",
        ),
        (lambda version: (version / "requests.json").unlink(), r"requests.json is missing"),
        (
            change_answers,
            r"answers request 0 of requests.json \(score\) differently than when it was published "
            r"\(log_likelihood differs from the recorded value\); publish it again$",
        ),
        (lambda version: (version / "MANIFEST.json").write_text("{"), "is missing or damaged"),
    ],
)
def test_a_changed_version_is_not_loaded(model: Path, change: Any, problem: str) -> None:
    change(model / "2")
    linked = model.parent / "link"
    linked.symlink_to(model / "2")
    for path in (model / "2", linked):
        with pytest.raises(InputError, match=problem):
            LoadedVersion(str(path))


@pytest.mark.slow
def test_a_changed_champion_is_not_served(model: Path) -> None:
    registered = RegisteredModel.at(str(model))
    promote(registered, 1)
    follower = ChampionFollower(str(model), Metrics(), load_here)
    promote(registered, 2)
    change_weights(model / "2")
    follower.look()
    state = follower.state()
    assert (state["version"], state["status"]) == (1, "behind")
    assert "was changed" in state["problem"]
    with pytest.raises(InputError, match="was changed"):  # with nothing else to serve
        ChampionFollower(str(model), Metrics(), load_here)
    rollback(registered)
    follower.look()
    assert follower.state()["status"] == "ok"


@pytest.mark.slow
def test_a_version_of_an_older_charloom_has_no_manifest(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model / "2" / "MANIFEST.json").unlink()
    version = LoadedVersion(str(model / "2"))
    assert (version.number, version.digest) == (2, None)
    assert [record.getMessage() for record in caplog.records if record.name.endswith("loaded")] == [
        f"{model}/2 has no MANIFEST.json: its files are not checked"
    ]
    (model / "champion.json").write_text('{"version": 2, "history": [1]}')
    follower = ChampionFollower(str(model), Metrics(), load_here)
    assert follower.state()["champion"] == {"version": 2, "digest": None}
    before = follower.current
    follower.look()
    assert follower.current is before
    pointer = Pointer(2, "0" * 64, history=(Entry(1),))
    RegisteredModel.at(str(model)).write_pointer(pointer)
    with pytest.raises(InputError, match=r"is not the version 2 that champion.json names"):
        ChampionFollower(str(model), Metrics(), load_here)
