"""Real runs of the real graph with kfp.local, and what the terminal and the user get of them."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from compiled_pipeline import read_specs
from mounts import run_with_mount
from pipeline_runs import Run, run_tiny, share_first_run

from components.preprocess.analysis.drift import compare
from components.preprocess.inputs.listing import find_files
from components.preprocess.inputs.listing_file import load_listing
from components.run_settings import RunSettings
from model.config import with_overrides
from model.errors import CharloomError, InputError, RejectedError, RestartableError
from model.presets import tiny
from pipelines.compile import compile_pipeline
from pipelines.graph import train_language_model
from pipelines.local import runner
from pipelines.local.runner import RunResult, run_pipeline


@pytest.fixture(scope="module")
def passed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return share_first_run(corpus, tmp_path_factory)


@pytest.fixture(scope="module")
def rejected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("rejected")
    return run_tiny([f"{corpus}/*.txt"], root, "gate.max_perplexity=1", "train.steps=20")


def executed_tasks(root: Path) -> set[str]:
    """Returns the tasks that ran: each has written its executor's output."""
    (run,) = (root / "pipeline").iterdir()
    return {path.parent.name for path in run.glob("*/executor_output.json")}


def compiled_tasks(path: Path) -> dict[str, set[str]]:
    """Returns the tasks of the YAML by the condition under which they run ("" for always)."""
    compile_pipeline(str(path))
    spec, _ = read_specs(path)
    found: dict[str, set[str]] = {}

    def walk(dag: dict[str, Any], condition: str) -> None:
        for name, task in dag["tasks"].items():
            inner = task.get("triggerPolicy", {}).get("condition", condition)
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                walk(component["dag"], inner)
            else:
                found.setdefault(inner, set()).add(name)

    walk(spec["root"]["dag"], "")
    return found


@pytest.mark.slow
def test_the_tasks_of_both_runs_are_those_of_the_yaml(
    passed: Run, rejected: Run, tmp_path: Path
) -> None:
    compiled = compiled_tasks(tmp_path / "p.yaml")
    always = compiled.pop("")
    assert always == {"find-inputs", "preprocess", "train", "evaluate"}
    for condition, tasks in compiled.items():
        root = rejected[1] if condition.startswith("!(") else passed[1]
        assert executed_tasks(root) == always | tasks
    assert len(compiled) == 2


@pytest.mark.slow
def test_a_model_that_passes_is_published(passed: Run) -> None:
    result, root, _ = passed
    assert result.verdict == "PASSED"
    assert result.reasons[-1] == "there is no champion to compare with"
    assert result.registry_version is not None
    version = Path(result.registry_version)
    assert version.parent == root / "registry" / "m"
    assert (version / "saved_model.pb").is_file()
    report = json.loads(Path(result.report_json).read_text())
    assert report["verdict"]["status"] == "PASSED"
    assert "PASSED" in Path(result.report_html).read_text()
    assert (Path(result.records) / "dataset.json").is_file()
    assert len(list((Path(result.workdir) / "logs").glob("worker-*.log"))) == 2


@pytest.mark.slow
def test_the_records_are_of_the_files_that_were_listed(passed: Run, corpus: Path) -> None:
    (listing,) = passed.root.glob("pipeline/*/find-inputs/listing")
    assert load_listing(str(listing)) == find_files([f"{corpus}/*.txt"])
    dataset = json.loads(Path(passed.result.records, "dataset.json").read_text())
    assert dataset["input"]["files"] == len(load_listing(str(listing)))


@pytest.mark.slow
def test_a_rejected_model_is_not_published(rejected: Run) -> None:
    result, root, shown = rejected
    assert result.verdict == "REJECTED"
    assert result.registry_version is None
    assert list((root / "registry").iterdir()) == []
    assert any("max_perplexity" in reason for reason in result.reasons)
    (markdown,) = root.glob("pipeline/*/report-rejection/rejection")
    for reason in result.reasons:
        line = f"- {' '.join(reason.split())}\n"
        assert line in shown
        assert line in markdown.read_text()
    assert json.loads(Path(result.report_json).read_text())["verdict"]["status"] == "REJECTED"


@pytest.mark.slow
def test_kfp_can_show_metrics_and_page(passed: Run) -> None:
    result, root, _ = passed
    (page,) = root.glob("pipeline/*/evaluate/page")
    assert page.read_bytes() == Path(result.report_html).read_bytes()
    (card,) = root.glob("pipeline/*/preprocess/data_card")
    assert card.read_bytes() == Path(result.records, "data_card.html").read_bytes()
    metrics = {}
    for path in root.glob("pipeline/*/*/executor_output.json"):
        outputs = json.loads(path.read_text()).get("artifacts", {})
        if "metrics" in outputs:
            metrics[path.parent.name] = outputs["metrics"]["artifacts"][0]["metadata"]
    report = json.loads(Path(result.report_json).read_text())
    assert metrics["evaluate"] == {
        "test_perplexity": report["splits"]["test"]["perplexity"],
        "unigram_perplexity": report["baseline"]["unigram"]["perplexity"],
        "bigram_perplexity": report["baseline"]["bigram"]["perplexity"],
        "bits_per_character": report["splits"]["test"]["bits_per_character"],
    }
    assert metrics["train"]["step"] in (100, 200)  # of the best checkpoint
    assert 1 < metrics["train"]["valid_perplexity"] < metrics["evaluate"]["unigram_perplexity"]
    dataset = json.loads((Path(result.records) / "dataset.json").read_text())
    assert metrics["preprocess"]["train_words"] == dataset["splits"]["train"]["words"]
    assert metrics["preprocess"]["vocabulary"] == dataset["vocab"]["size"]
    assert "divergence" not in metrics["preprocess"]  # nothing was compared


def run_compared(texts: str, root: Path, to: RunSettings) -> RunResult:
    """Runs the graph on texts that are compared to records, with as little training as there can be."""
    config = with_overrides(tiny(), ["train.steps=1", "train.warmup_steps=0"])
    return run_pipeline(
        inputs=[texts], root=str(root), config=config, workers=1, model_name="m", settings=to
    )


@pytest.mark.slow
def test_words_that_drift_too_far_end_the_run(
    tiny_records: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, texts = tmp_path / "root", f"{corpus}/0*.txt"  # of tiny_records' own, a part
    with pytest.raises(RejectedError) as raised:
        run_compared(texts, root, RunSettings(compare_to=tiny_records, max_divergence=0.0))
    assert executed_tasks(root) == {"find-inputs"}
    (records,) = root.glob("pipeline/*/preprocess/records")
    drift = compare(str(records), tiny_records)
    assert 0 < drift.divergence < 1
    assert str(raised.value).startswith(
        f"the words of {records} have drifted too far from {tiny_records}: new-word rate "
        f"{drift.new_word_rate:.5f} (no limit), Jensen-Shannon divergence {drift.divergence:.5f} "
        "(above run.max_divergence 0.00000); "
    )
    assert f"{records} compared to {tiny_records}:\n{drift.describe()[0]}\n" in (
        capsys.readouterr().out
    )
    (card,) = root.glob("pipeline/*/preprocess/data_card")
    assert card.read_bytes() == (records / "data_card.html").read_bytes()


@pytest.mark.extra
def test_drift_without_a_limit_is_shown(tiny_records: str, corpus: Path, tmp_path: Path) -> None:
    result = run_compared(f"{corpus}/0*.txt", tmp_path, RunSettings(compare_to=tiny_records))
    drift = compare(result.records, tiny_records)
    (output,) = tmp_path.glob("pipeline/*/preprocess/executor_output.json")
    metrics = json.loads(output.read_text())["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert metrics["divergence"] == drift.divergence
    assert metrics["new_word_rate"] == drift.new_word_rate


@pytest.mark.slow
def test_kfp_can_show_the_learning_curves(passed: Run) -> None:
    _, root, _ = passed
    (curves,) = root.glob("pipeline/*/train/curves")
    assert "<dt>Steps</dt><dd>200 of 200</dd>" in curves.read_text()
    assert not list(root.glob("pipeline/*/train/mlpipeline_ui_metadata"))  # of clusters only


@pytest.mark.slow
def test_a_laptop_has_no_shared_volume(passed: Run) -> None:
    result, root, _ = passed
    assert not list(root.glob("pipeline/**/LOCATION"))
    for folder in (result.records, result.workdir, os.path.dirname(result.report_json)):
        assert os.path.exists(os.path.join(folder, "COMPLETED"))


@pytest.mark.slow
def test_the_terminal_shows_the_tasks_and_the_log_all(passed: Run) -> None:
    result, _, shown = passed
    headings = re.findall(r"^\d\d:\d\d:\d\d ([a-z-]+)$", shown, flags=re.MULTILINE)
    assert headings == ["find-inputs", "preprocess", "train", "evaluate", "export"]
    assert "KFP Executor" not in shown
    assert "parameterValues" not in shown
    log = Path(result.log).read_text()
    assert "Got executor_input" in log
    assert log.count("finished with status") == 6  # five tasks and the pipeline


def test_bad_input_is_the_tasks_own_line(tmp_path: Path) -> None:
    before, executable = dict(os.environ), sys.executable
    pattern = str(tmp_path / "nothing" / "*.txt")
    with pytest.raises(InputError) as raised:
        run_pipeline(
            inputs=[pattern], root=str(tmp_path / "r"), config=tiny(), workers=1, model_name="m"
        )
    assert pattern in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2
    made = (tmp_path / "r" / "pipeline").rglob("*")
    assert not [path for path in made if path.is_file()]  # the first task has listed nothing
    assert os.listdir(tmp_path / "r" / "registry") == []
    assert dict(os.environ) == before
    assert sys.executable == executable


def test_a_defect_is_named_by_task_and_log(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apache_beam.py").write_text("raise RuntimeError('beam is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CharloomError, match="task preprocess failed") as raised:
        run_pipeline(
            inputs=[f"{corpus}/*.txt"],
            root=str(tmp_path / "r"),
            config=tiny(),
            workers=1,
            model_name="m",
        )
    assert raised.value.exit_code == 1
    (log,) = (tmp_path / "r" / "logs").iterdir()
    assert str(log) in str(raised.value)
    assert "RuntimeError: beam is broken" in log.read_text()


def test_nothing_is_tried_again_and_no_time_is_left_to_fill_in() -> None:
    before = train_language_model.pipeline_spec.SerializeToString(deterministic=True)
    here = runner._graph_for_here().pipeline_spec
    assert train_language_model.pipeline_spec.SerializeToString(deterministic=True) == before
    tasks = train_language_model.pipeline_spec.root.dag.tasks
    assert tasks["train"].retry_policy.max_retry_count == 5
    assert not any(task.HasField("retry_policy") for task in here.root.dag.tasks.values())
    times = here.root.dag.tasks["find-inputs"].inputs.parameters
    assert times["scheduled"].runtime_value.constant.string_value == ""
    assert times["created"].runtime_value.constant.string_value == ""
    # All else is the graph that is compiled.
    for name, task in here.root.dag.tasks.items():
        task.retry_policy.CopyFrom(tasks[name].retry_policy)
        if not tasks[name].HasField("retry_policy"):
            task.ClearField("retry_policy")
    for name in ("scheduled", "created"):
        times[name].CopyFrom(tasks["find-inputs"].inputs.parameters[name])
    assert here == train_language_model.pipeline_spec


@pytest.mark.parametrize(
    ("inputs", "workers", "name", "message"),
    [
        (["a.txt"], 0, "m", "--workers is 0"),
        (["folder/some-file.txt"] * 5000, 1, "m", "--input lists 5000 names"),
        (["a.txt"], 1, "../m", r"\.\./m"),
    ],
)
def test_arguments_are_checked_first(
    tmp_path: Path, inputs: list[str], workers: int, name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_pipeline(
            inputs=inputs, root=str(tmp_path), config=tiny(), workers=workers, model_name=name
        )
    assert os.listdir(tmp_path) == []


def test_a_root_that_is_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("not a folder")
    with pytest.raises(InputError, match="can't write to --root"):
        run_pipeline(
            inputs=["x"], root=str(tmp_path / "r"), config=tiny(), workers=1, model_name="m"
        )


@pytest.mark.parametrize(
    ("code", "cls"),
    [(2, InputError), (3, RejectedError), (75, RestartableError), (1, CharloomError)],
)
def test_a_reported_error_keeps_its_class(
    tmp_path: Path, code: int, cls: type[CharloomError]
) -> None:
    path = tmp_path / "error.json"
    path.write_text(json.dumps({"exit_code": code, "message": "what, where, what next"}))
    error = runner._describe_failure(RuntimeError("kfp"), str(path), "run.log")
    assert type(error) is cls
    assert str(error) == "what, where, what next"


NO_PROGRAMS = "-t tmpfs -o noexec none"
STARTED = """
import os, subprocess, sys
from model.errors import InputError
from pipelines.local.runner import _starter
try:
    with _starter(*{places}) as programs:
        print(os.path.dirname(programs))
        said = subprocess.run(
            ["python3", "-c", "import sys; print(sys.executable)"],
            env=os.environ | {{"PATH": programs + ":" + os.environ["PATH"]}},
            capture_output=True, text=True, check=True,
        )
        print(said.stdout, end="")
except InputError as error:
    print(error)
print({places}[-1], os.listdir({places}[-1]))
"""


def test_tasks_never_run_in_another_python(tmp_path: Path) -> None:
    """Not either where no program can be started from the temporary folder."""
    closed, opened = tmp_path / "closed", tmp_path / "opened"
    for folder in (closed, opened):
        folder.mkdir()
    done = run_with_mount(
        closed, STARTED.format(places=[str(closed), str(opened)]), mount=NO_PROGRAMS
    )
    assert done.stdout.splitlines() == [str(opened), sys.executable, f"{opened} []"], done.stderr
    done = run_with_mount(closed, STARTED.format(places=[str(closed)]), mount=NO_PROGRAMS)
    assert done.stdout.splitlines() == [
        f"programs can't be started from {closed} (mounted noexec); set TMPDIR to a folder from "
        "which they can",
        f"{closed} []",
    ], done.stderr
