from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from volume import keep_first

from components.export import main
from components.export.checking import Budget
from components.export.main import run
from components.export.manifest import read_manifest, verify, write_manifest
from components.export.model_card import model_card
from components.export.promoting import promote
from components.export.registry import LOCK_FILE, RegisteredModel
from model.checkpointing.checkpoints import best_checkpoint, list_checkpoints
from model.errors import CharloomError, InputError, RejectedError

pytestmark = pytest.mark.slow

FILES = {
    *("saved_model.pb", "variables", "assets", "fingerprint.pb", "checkpoint", "vocab.txt"),
    *("report.json", "report.html", "report.md", "config.json", "model_card.md", "requests.json"),
    *("MANIFEST.json", "seen.npy"),
}


def champions(model: Path) -> tuple[int, tuple[int, ...]]:
    """Returns the numbers of the champion and of those before it."""
    pointer = RegisteredModel.at(str(model)).read_pointer()
    assert pointer is not None
    return pointer.version, tuple(entry.version for entry in pointer.history)


class Case:
    """Arguments of `run`, with a report of its own to change."""

    def __init__(self, tmp_path: Path, records: str, workdir: str, report: str):
        self.records = records
        self.workdir = workdir
        self.registry = tmp_path / "registry"
        self.report = tmp_path / "report"
        shutil.copytree(report, self.report)
        self.content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))

    @property
    def path(self) -> Path:
        return self.report / "report.json"

    def change(self, **values: Any) -> None:
        self.path.write_text(json.dumps({**self.content, **values}), encoding="utf-8")

    def run(self, name: str = "m") -> Path:
        version = run(
            records=self.records,
            workdir=self.workdir,
            report=str(self.report),
            registry=str(self.registry),
            name=name,
        )
        return Path(version)

    def left(self) -> list[str]:
        """Returns all that is in the registry, the model's folder and its lock aside."""
        found = {path.name for path in self.registry.rglob("*")}
        return sorted(found - {"m", LOCK_FILE})


@pytest.fixture
def case(tmp_path: Path, tiny_records: str, tiny_training: str, tiny_report: str) -> Case:
    return Case(tmp_path, tiny_records, tiny_training, tiny_report)


def test_a_published_version(tiny_version: str, tiny_report: str, tiny_training: str) -> None:
    version = Path(tiny_version)
    assert (version.parent.name, version.name) == ("tiny", "1")
    assert sorted(os.listdir(version.parent)) == [".lock", "1", "champion.json", "numbers.json"]
    assert set(os.listdir(version)) == FILES
    assert verify(str(version)) == []
    assert champions(version.parent) == (1, ())
    assert (version / "report.html").read_bytes() == Path(tiny_report, "report.html").read_bytes()
    report = json.loads((version / "report.json").read_text(encoding="utf-8"))
    text = (Path(tiny_report) / "report.json").read_text(encoding="utf-8")
    assert report == json.loads(text)
    assert report["verdict"]["status"] == "PASSED"
    best = best_checkpoint(tiny_training)
    config = json.loads((version / "config.json").read_text(encoding="utf-8"))
    assert config == report["config"] == best.meta["config"]
    card = (version / "model_card.md").read_text(encoding="utf-8")
    test = report["splits"]["test"]
    assert card.startswith("# tiny\n")
    assert f"| test perplexity | {test['perplexity']:.2f} over {test['words']:,} words |" in card
    assert f"| checkpoint | step {best.step:,}, SHA-256 {best.digest} |" in card
    assert "## Verdict: PASSED\n- test perplexity " in card


def test_card_says_how_the_export_was_checked(tiny_report: str) -> None:
    text = (Path(tiny_report) / "report.json").read_text(encoding="utf-8")
    checked = {"words": 1234, "max_difference": 2.5e-7, "requests": 4}
    checked |= {"latency_ms": 12.34, "memory_mb": 1234.5}
    card = model_card(json.loads(text), name="m", checked=checked)
    bits = json.loads(text)["splits"]["test"]["bits_per_character"]
    assert f"| bits per character | {bits:.3f} |" in card
    assert "| 1,234 held-out words, largest difference to the checkpoint 2.5e-07 nats |" in card
    assert "| 12.3 ms for the slowest of 4 recorded requests, 1,234 MB at most |" in card
    assert "| champion it was compared with | none |" in card


@pytest.mark.parametrize(
    "verdict",
    [
        {"status": "REJECTED", "reasons": ["too bad", "really"]},
        {"status": "passed", "reasons": ["too bad", "really"]},
        {"status": None, "reasons": ["too bad", "really"]},
    ],
)
def test_a_rejected_model_is_not_exported(case: Case, verdict: dict[str, Any]) -> None:
    case.change(verdict=verdict)
    with pytest.raises(RejectedError) as caught:
        case.run()
    assert str(caught.value) == "the gate rejected this model: too bad; really"
    assert caught.value.exit_code == 3
    assert not case.registry.exists()


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"verdict": "PASSED"}', '{"verdict": {}}']
)
def test_without_a_verdict_nothing_is_exported(case: Case, text: str | None) -> None:
    if text is None:
        case.path.unlink()
    else:
        case.path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"report\.json has no verdict; run charloom evaluate$"):
        case.run()
    assert not case.registry.exists()


def test_a_bad_name_is_refused_at_once(case: Case) -> None:
    case.path.unlink()
    with pytest.raises(InputError, match=r"model name '\.\./m' must start"):
        case.run("../m")
    assert not case.registry.exists()


@pytest.mark.parametrize(
    "step", keep_first(["export_model", "record_requests", "check_in_fresh_process"])
)
def test_a_failed_export_leaves_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*unused: Any, **also_unused: Any) -> None:
        raise CharloomError("too slow")

    with monkeypatch.context() as patch:
        patch.setattr(main, step, fail)
        with pytest.raises(CharloomError, match="too slow"):
            case.run()
    assert case.left() == []
    case.workdir = str(case.registry)
    with pytest.raises(InputError, match="holds no finished training"):
        case.run()
    assert case.left() == []


def test_a_report_of_another_checkpoint_is_refused(case: Case) -> None:
    best = best_checkpoint(case.workdir)
    assert case.content["checkpoint"]["digest"] == best.digest
    other = {**case.content["checkpoint"], "digest": "0" * 64}  # of the same step
    case.change(checkpoint=other)
    with pytest.raises(
        InputError, match=r"is about another checkpoint .* run charloom evaluate again"
    ):
        case.run()
    assert case.left() == []


def test_the_exported_checkpoint_is_the_evaluated_one(tiny_training: str, tiny_report: str) -> None:
    # What makes the check above mean something: the report names the best checkpoint.
    content = json.loads((Path(tiny_report) / "report.json").read_text(encoding="utf-8"))
    assert content["checkpoint"]["path"] in list_checkpoints(tiny_training)
    assert content["checkpoint"]["digest"] == best_checkpoint(tiny_training).digest


def test_a_checkpoint_is_published_once(
    tiny_version: str,
    tiny_records: str,
    tiny_training: str,
    tiny_report: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registry = Path(tiny_version).parent.parent
    folders = {"records": tiny_records, "workdir": tiny_training, "report": tiny_report}
    again = run(**folders, registry=str(registry), name="tiny")
    assert again == tiny_version
    assert capsys.readouterr().out == (
        f"{tiny_version} is already published; champion of {registry}/tiny: version 1\n"
    )
    assert sorted(os.listdir(registry / "tiny")) == [".lock", "1", "champion.json", "numbers.json"]


def test_a_published_checkpoint_is_asked_again_where_a_budget_is_given(
    tiny_version: str,
    tiny_records: str,
    tiny_training: str,
    tiny_report: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Path(tiny_version).parent.parent
    folders = {"records": tiny_records, "workdir": tiny_training, "report": tiny_report}
    said = {"requests": 4, "latency_ms": 1.0, "memory_mb": 9.0}
    done = subprocess.CompletedProcess("", 0, stdout=json.dumps(said).encode())
    monkeypatch.setattr(subprocess, "run", lambda *unused, **also_unused: done)
    with pytest.raises(CharloomError) as caught:
        run(**folders, registry=str(registry), name="tiny", budget=Budget(memory_mb=1.0))
    assert str(caught.value).endswith(
        f"MB, but 1.0 are allowed (--max-memory-mb); {tiny_version} stays as it is"
    )


def test_another_precision_is_another_version(
    case: Case, tiny_version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(tiny_version).parent, case.registry / "m")
    monkeypatch.chdir(case.registry.parent)
    arguments = {"records": case.records, "workdir": case.workdir, "report": str(case.report)}
    for _ in range(2):  # once, however often; a relative registry will do
        version = run(**arguments, registry="registry", name="m", precision="bfloat16")
        assert version == "registry/m/2"
    assert read_manifest(version)["export"]["precision"] == "bfloat16"
    assert sorted(os.listdir("registry/m")) == [".lock", "1", "2", "champion.json", "numbers.json"]


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch, tiny_version: str) -> None:
    """New versions are copies of `tiny_version`, where promotion is the subject."""

    def fill(staged: str, **unused: Any) -> dict[str, Any]:
        shutil.copytree(tiny_version, staged, dirs_exist_ok=True)
        return {"words": 1, "max_difference": 0.0}

    def check(*unused: Any) -> dict[str, Any]:
        return {"requests": 1, "latency_ms": 1.0, "memory_mb": 1.0}

    monkeypatch.setattr(main, "_fill", fill)
    monkeypatch.setattr(main, "check_in_fresh_process", check)


@pytest.fixture
def published(case: Case, tiny_version: str, filled: None) -> Case:
    """A case in whose registry there are two other versions, the second the champion."""
    for number in (1, 2):
        folder = case.registry / "m" / str(number)
        shutil.copytree(tiny_version, folder)
        (folder / "MANIFEST.json").unlink()
        write_manifest(str(folder), {"checkpoint": str(number)})
        promote(RegisteredModel(str(case.registry), "m"), number)
    return case


def test_a_version_that_was_compared_with_the_champion_becomes_it(
    published: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    published.change(champion={"checkpoint_digest": "2"})
    assert published.run() == published.registry / "m" / "3"
    assert champions(published.registry / "m") == (3, (1, 2))
    assert f"champion of {published.registry}/m: version 3\n" in capsys.readouterr().out


@pytest.mark.parametrize("champion", keep_first([{"checkpoint_digest": "1"}, None, {}]))
def test_a_version_that_was_not_stays_behind(
    published: Case, capsys: pytest.CaptureFixture[str], champion: Any
) -> None:
    published.change(champion=champion)
    assert published.run() == published.registry / "m" / "3"
    assert champions(published.registry / "m") == (2, (1,))
    model = published.registry / "m"
    assert capsys.readouterr().out.endswith(
        f"the champion of {model} stays version 2, with which this one was not compared; run "
        f"charloom evaluate --champion {model} and charloom export again, or charloom registry "
        f"promote {model} 3\n"
    )


@pytest.mark.usefixtures("filled")
def test_a_version_compared_with_a_champion_that_is_gone_stays_behind(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.change(champion={"checkpoint_digest": "1"})
    assert case.run() == case.registry / "m" / "1"
    model = case.registry / "m"
    assert not (model / "champion.json").exists()
    assert capsys.readouterr().out.endswith(
        f"{model} has no champion, and this version was compared with one; run charloom evaluate "
        f"again without --champion, or charloom registry promote {model} 1\n"
    )
