"""Where a run is going to publish, as the first step sees it: a task in a pod, or on a laptop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.export.registry import RegisteredModel
from components.export.target import check_target
from components.preprocess.inputs.find import find_inputs
from model.errors import InputError

LOST = "is not on a volume mounted in this pod; a model published there would be lost with the pod"
RELATIVE = "it must be a folder, as the pods see it"


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is a mounted volume; nothing else is one but the root."""
    path = tmp_path / "volume"
    (path / "corpus").mkdir(parents=True)
    (path / "corpus" / "a.txt").write_text("some words\n")
    mounted = {os.path.realpath(path), "/", "//"}
    monkeypatch.setattr(os.path, "ismount", lambda place: os.fspath(place) in mounted)
    return path


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a task's pod."""
    monkeypatch.setenv("KFP_POD_NAME", "train-language-model-abcde-123")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")


@pytest.mark.parametrize("registry", ["{volume}/registry", "{volume}/new/a/b/", "{volume}"])
def test_a_registry_on_a_volume_that_the_pod_mounts(pod: None, volume: Path, registry: str) -> None:
    check_target(RegisteredModel(registry.format(volume=volume), "lm"))


@pytest.mark.parametrize(
    ("registry", "problem"),
    [
        ("{volume}s/registry", LOST),  # another folder, whose name begins alike
        ("{volume}/../registry", LOST),
        ("/registry", LOST),
        ("//registry", LOST),
        ("/", LOST),
        ("registry", RELATIVE),
        ("", RELATIVE),
    ],
)
def test_the_first_step_refuses_a_registry_that_would_be_lost(
    pod: None, volume: Path, registry: str, problem: str
) -> None:
    given = registry.format(volume=volume)
    for call in (
        lambda: check_target(RegisteredModel(given, "lm")),
        lambda: find_inputs(f"{volume}/corpus/*.txt", registry=given, model_name="lm"),
    ):
        with pytest.raises(InputError, match=problem) as caught:
            call()
        assert str(caught.value).startswith(f"registry {given}" if given[:1] == "/" else "registry")


def test_links_count_as_what_they_lead_to(pod: None, volume: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(volume)
    (volume / "out").symlink_to(tmp_path / "elsewhere")
    check_target(RegisteredModel(f"{tmp_path}/link/registry", "lm"))
    with pytest.raises(InputError, match=LOST):
        check_target(RegisteredModel(f"{volume}/out/registry", "lm"))


def test_the_first_step_refuses_a_bad_name(volume: Path) -> None:
    with pytest.raises(InputError, match="model name '2026' is a number"):
        find_inputs(f"{volume}/corpus/*.txt", registry=str(volume), model_name="2026")


def test_a_laptop_has_no_volumes(volume: Path, tmp_path: Path) -> None:
    for registry in (f"{tmp_path}/registry", "registry"):
        check_target(RegisteredModel(registry, "lm"))
        found = find_inputs(f"{volume}/corpus/*.txt", registry=registry, model_name="lm")
        assert (found.champion, found.reference, found.base) == ("", "", "")
