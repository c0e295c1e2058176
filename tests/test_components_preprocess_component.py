"""The bodies of the KFP components of the preprocess stage, run on real text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components import component_runtime
from components.preprocess.analysis.drift_limits import extend_fingerprint
from components.preprocess.component import find_inputs, preprocess
from components.preprocess.main import run
from components.shared_runs import note_removal
from model.config import to_json, with_overrides
from model.data.records import Dataset
from model.presets import tiny

# Of 8 words: new a 4, c 4; old a 4, b 4. So half of the words are new. Divergence: b and c each
# 1/2 * 1/2 * log2(2), a nothing.
NEW_TEXT, OLD_TEXT = "a a c c\nc c a a\n", "a b a b a b a b\n"
SETTINGS = ["data.min_count=1", "data.valid_fraction=0", "data.test_fraction=0"]
CONFIG = with_overrides(tiny(), [*SETTINGS, "data.sentence_marks=false"])


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of OLD_TEXT; read only."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "old.txt").write_text(OLD_TEXT)
    run(inputs=[f"{folder}/old.txt"], records=f"{folder}/records", config=CONFIG.data)
    return f"{folder}/records"


def find(folder: Path, shared: str = "", **run: Any) -> Any:
    """Runs the body of the first component on NEW_TEXT with settings of the run."""
    text = folder / "new.txt"
    if not text.exists():  # its time of change is in the fingerprint
        text.write_text(NEW_TEXT)
    return find_inputs.python_func(
        corpus=str(text),
        listing=dsl.Artifact(name="listing", uri=str(folder / "listing")),
        preset=to_json(CONFIG),
        settings=[f"run.{name}={value}" for name, value in run.items()],
        shared=shared,
    )


def test_the_output_of_removed_runs_is_not_found_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = find(tmp_path)
    monkeypatch.setenv("KFP_POD_NAME", "pod")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    found = []
    for name in ("one", "two", "three"):
        monkeypatch.setenv(component_runtime.RUN_VARIABLE, name)
        found.append(find(tmp_path, shared=str(tmp_path / "mnt")))
        assert (tmp_path / "mnt/runs" / name / "FINGERPRINT").read_text() == f"{alone[1]}\n"
        if name == "two":
            note_removal(str(tmp_path / "mnt" / "runs" / "one"))
    fingerprints = [one[1] for one in found]
    assert fingerprints[:2] == [alone[1], alone[1]]
    assert fingerprints[2] != alone[1]
    assert len({(*one[2:],) for one in (alone, *found)}) == 1  # of them, only the key differs


def test_the_first_task_looks_at_the_other_records(
    tmp_path: Path, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, fingerprint, *rest = find(tmp_path)
    compared = find(tmp_path, compare_to=old)
    assert compared[:2] == (listing, extend_fingerprint(fingerprint, old))
    assert json.loads(compared[8]) == {"compare_to": old}
    assert (*compared[2:8], *compared[9:]) == (*rest[:6], *rest[7:])
    error_file = tmp_path / "error.json"
    monkeypatch.setenv(component_runtime.ERROR_FILE_VARIABLE, str(error_file))
    with pytest.raises(SystemExit) as raised:
        find(tmp_path, compare_to="/no/such")
    assert raised.value.code == 2
    assert json.loads(error_file.read_text())["message"].startswith(
        "run.compare_to /no/such is not a folder"
    )


def run_preprocess(
    folder: Path, found: Any = None, **run: Any
) -> tuple[Path, Path, dict[str, float]]:
    """Runs the body of the component with settings of the run; returns records, data card and metrics.

    `found` is what the first component gave; None: runs that, too.
    """
    root = {name: run[name] for name in ("source_root",) if name in run}
    found = found or find(folder, **root)
    metrics = dsl.Metrics(name="metrics", uri=str(folder / "metrics"))
    preprocess.python_func(
        listing_folder=found[0],
        config=found[2],
        records=dsl.Dataset(name="records", uri=str(folder / "records")),
        data_card=dsl.HTML(name="data_card", uri=str(folder / "card")),
        metrics=metrics,
        run_settings=json.dumps(run),
    )
    return folder / "records", folder / "card", metrics.metadata


def test_both_tasks_name_files_below_the_source_root(tmp_path: Path) -> None:
    plain, named = find(tmp_path), find(tmp_path, source_root=str(tmp_path.parent))
    assert named[0] == plain[0]
    assert named[1] != plain[1]  # the fingerprint
    records, *_ = run_preprocess(tmp_path, source_root=str(tmp_path.parent))
    with Dataset.open(str(records)) as dataset:
        assert dataset.read("train", 0).source == f"{tmp_path.name}/new.txt:0"


def test_text_that_changes_between_the_tasks_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So KFP's retries of the second task end in the same way, and only a new run helps."""
    error_file = tmp_path / "error.json"
    monkeypatch.setenv(component_runtime.ERROR_FILE_VARIABLE, str(error_file))
    found = find(tmp_path)
    (tmp_path / "new.txt").write_text(NEW_TEXT * 2)
    with pytest.raises(SystemExit) as raised:
        run_preprocess(tmp_path, found)
    assert raised.value.code == 2
    assert json.loads(error_file.read_text())["message"] == (
        f"{tmp_path}/new.txt has changed since it was listed (it has 32 bytes, not 16); start a "
        "new run, which lists the text anew"
    )


SIZES = {"train_words": 8.0, "valid_words": 0.0, "test_words": 0.0, "vocabulary": 5.0}


def test_the_task_publishes_the_data_card_and_the_drift(
    tmp_path: Path, old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records, card, metrics = run_preprocess(tmp_path)
    made = (records / "data_card.html").read_bytes()
    assert made.startswith(b"<!DOCTYPE html>")
    assert card.read_bytes() == made
    assert metrics == SIZES
    assert "compared to" not in capsys.readouterr().out
    card.write_text("")
    _, card, metrics = run_preprocess(tmp_path, compare_to=old, max_divergence=0.5)
    assert card.read_bytes() == made  # of records that were prepared before
    assert metrics == {**SIZES, "new_word_rate": 0.5, "divergence": 0.5}
    first, second, third = capsys.readouterr().out.splitlines()[1:4]
    assert first == f"{records}: already prepared from this input with this config"
    assert second == f"{records} compared to {old}:"
    assert third.startswith("new words: 50.00% of 8 training words (4 known ones, ")


def test_above_a_limit_the_task_fails_and_leaves_card_and_records(
    tmp_path: Path, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error_file = tmp_path / "error.json"
    monkeypatch.setenv(component_runtime.ERROR_FILE_VARIABLE, str(error_file))
    with pytest.raises(SystemExit) as raised:
        run_preprocess(tmp_path, compare_to=old, max_new_word_rate=0.25)
    assert raised.value.code == 3
    records = tmp_path / "records"
    reported = json.loads(error_file.read_text())
    assert (reported["exit_code"], reported["kind"]) == (3, "RejectedError")
    assert reported["message"].startswith(
        f"the words of {records} have drifted too far from {old}: new-word rate 0.50000 (above "
        "run.max_new_word_rate 0.25000), Jensen-Shannon divergence 0.50000 (no limit); "
    )
    assert (records / "COMPLETED").is_file()
    assert (tmp_path / "card").read_bytes() == (records / "data_card.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_divergence": 0.5}, "run.max_divergence has no effect without run.compare_to; "),
        ({"compare_to": "/no/such"}, "/no/such is not a records folder; "),
        ({"compare_to": "/no/such", "max_new_word_rate": 2.0}, "run.max_new_word_rate is 2.0; "),
    ],
)
def test_the_task_tells_what_is_wrong_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    message: str,
) -> None:
    error_file = tmp_path / "error.json"
    monkeypatch.setenv(component_runtime.ERROR_FILE_VARIABLE, str(error_file))
    with pytest.raises(SystemExit) as raised:
        run_preprocess(tmp_path, **arguments)
    assert raised.value.code == 2
    assert json.loads(error_file.read_text())["message"].startswith(message)
    assert not (tmp_path / "records").exists()
