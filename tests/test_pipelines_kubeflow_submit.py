"""`charloom submit` against a stand-in of Kubeflow Pipelines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compiled_pipeline import COMMITTED, list_tasks, read_specs
from kfp_server import Server, serve

from components.run_settings import read_run, setting_names
from model.config import to_json
from model.presets import demo, small
from pipelines.cli.main import main
from pipelines.kubeflow import client, run_monitor

IMAGE = ["--image", "registry.example.com/charloom:1.2"]
INPUT = ["--input", "/mnt/charloom/a/*.txt", "/mnt/charloom/b"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(client.UI_VARIABLE, raising=False)
    monkeypatch.setattr(client, "_PAUSES", (0.01,))
    monkeypatch.setattr(run_monitor, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(client._Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve(tmp_path) as running:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", running.host)
        yield running


def submit(*flags: str) -> int:
    return main(["submit", *IMAGE, *flags])


def test_the_command(server: Server) -> None:
    command = [sys.executable, "-m", "pipelines.cli.main", "submit", *IMAGE, *INPUT]
    result = subprocess.run(
        [*command, "--registry", "/mnt/charloom/r", "--preset", "small", "--workers", "4"],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    pipeline, experiment, run, link = result.stdout.splitlines()
    assert re.fullmatch(
        r"pipeline: train-language-model, version \d+\.\d+\.\d+-[0-9a-f]{12} \(new\)", pipeline
    )
    assert experiment == "experiment: charloom (new)"
    (body,) = server.sent("POST", "runs")
    (made,) = server.store.all("runs")
    assert run == f"run:  {made['run_id']}"
    assert link == f"link: {server.host}/#/runs/details/{made['run_id']}"
    (version,) = server.store.all("versions")
    assert re.fullmatch(
        r"train-language-model \d{4}-\d\d-\d\d \d\d-\d\d-\d\d", body["display_name"]
    )
    assert re.fullmatch("Made by charloom submit. Ticket: [0-9a-f]{16}", body["description"])
    assert {**body, "display_name": "", "description": ""} == {
        "display_name": "",
        "description": "",
        "experiment_id": server.store.all("experiments")[0]["experiment_id"],
        "pipeline_version_reference": {
            "pipeline_id": version["pipeline_id"],
            "pipeline_version_id": version["pipeline_version_id"],
        },
        "runtime_config": {
            "parameters": {
                "corpus": '["/mnt/charloom/a/*.txt", "/mnt/charloom/b"]',
                "preset": "small",
                "model_registry": "/mnt/charloom/r",
                "workers": 4,
            }
        },
    }


def test_the_same_content_is_uploaded_once(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(*INPUT, "--name", "mine", "--service-account", "runner") == 0
    assert submit("--workers", "2") == 0
    assert capsys.readouterr().out.count("(new)") == 2  # the version and the experiment
    assert len(server.store.all("versions")) == 1
    assert server.store.all("runs")[0]["display_name"] == "mine"
    assert server.store.all("runs")[0]["service_account"] == "runner"
    assert submit("--image", "registry.example.com/charloom:1.3") == 0
    assert submit("--no-cache", "--experiment", "other") == 0
    names = [version["name"] for version in server.store.all("versions")]
    assert len(set(names)) == len(names) == 3
    assert len(server.store.all("pipelines")) == 1
    assert [one["display_name"] for one in server.store.all("experiments")] == ["charloom", "other"]
    assert len({run["pipeline_version_reference"]["pipeline_version_id"] for run in
                server.store.all("runs")}) == 3  # fmt: skip


def test_no_cache_reaches_tasks_inside_of_conditions(server: Server) -> None:
    assert submit() == submit("--no-cache") == 0
    cached, uncached = (
        {
            name
            for name, task in list_tasks(version["pipeline_spec"]["pipeline_spec"]).items()
            if task.get("cachingOptions", {}).get("enableCache")
        }
        for version in server.store.all("versions")
    )
    assert cached == {"preprocess", "train", "evaluate"}
    assert uncached == set()


def test_settings_are_sent_as_they_were_given(server: Server, tmp_path: Path) -> None:
    flags = ["--set", "train.steps=7", "--lowercase", "--warm-start", "champion", "--extend-vocab"]
    flags += ["--max-restarts", "5", "--require-improvement", "--set", "run.steps_share=.25"]
    settings = ["train.steps=7", "run.steps_share=.25", "data.lowercase=true"]
    settings += ["run.warm_start=champion", "run.extend_vocab=true", "run.max_restarts=5"]
    settings += ["gate.require_improvement=true"]
    assert submit("--preset", "small", *flags) == 0
    (tmp_path / "config.json").write_text(to_json(small()))
    assert submit("--config", str(tmp_path / "config.json")) == 0
    assert [one["runtime_config"]["parameters"] for one in server.sent("POST", "runs")] == [
        {"preset": "small", "settings": settings},
        {"preset": to_json(small())},
    ]


def test_every_setting_has_a_way_through_the_command(server: Server) -> None:
    given = {"run.warm_start": "champion", "run.compare_to": "/mnt/charloom/r"}
    given |= {"model.filter_widths": "[1]", "model.filter_counts": "[2]"}
    fields = {name: read(name) for name in setting_names()} | given
    flags = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    assert submit(*flags) == 0
    (sent,) = server.sent("POST", "runs")
    assert sent["runtime_config"]["parameters"] == {"settings": flags[1::2]}


def read(name: str) -> str:
    """Returns a field's default as text."""
    config, run = read_run(demo(), [])
    section, field = name.split(".")
    value = getattr(run if section == "run" else getattr(config, section), field)
    return value if isinstance(value, str) else json.dumps(value)


def test_values_by_type(server: Server) -> None:
    given = ["worker_deadline_hours=1e2", "workers=4", 'worker_node_selector={"a": "b"}']
    given += ["worker_queue=a=b", "worker_image=", 'settings=["train.steps=5"]']
    flags = [part for setting in given for part in ("--param", setting)]
    assert submit(*flags) == 0
    assert server.sent("POST", "runs")[0]["runtime_config"]["parameters"] == {
        "worker_deadline_hours": 100.0,
        "workers": 4,
        "worker_node_selector": {"a": "b"},
        "worker_queue": "a=b",
        "worker_image": "",
        "settings": ["train.steps=5"],
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--param", "workrs=3"], "--param workrs: the pipeline has no such parameter; did you mean workers? it has corpus, corpus_window_days, "),
        (["--param", "workers"], "--param 'workers' has no '='; write it as NAME=VALUE"),
        (["--param", "workers=2.5"], "--param workers is '2.5'; it must be a whole number"),
        (["--workers", "x"], "--workers is 'x'; it must be a whole number"),
        (["--param", "worker_deadline_hours=nan"], "--param worker_deadline_hours is 'nan'; it must be a number"),
        (["--param", "worker_node_selector=[]"], "--param worker_node_selector is '[]'; it must be a JSON object"),
        (["--param", "settings=train.steps=5"], "--param settings is 'train.steps=5'; it must be a JSON list"),
        (["--param", "settings=[5]"], 'settings must be a JSON list of strings, such as ["train.steps=5000"]'),
        (["--param", 'settings=["train.stps=5"]'], "settings names an unknown field 'train.stps'; did you mean train.steps"),
        (["--param", "settings=[]", "--lowercase"], "settings is given twice: by --set and by --param; use one"),
        (["--param", "window_days=7"], "--param window_days: the pipeline has no such parameter; did you mean corpus_window_days? it has "),
        (["--param", "queue=lm"], "--param queue: the pipeline has no such parameter; did you mean worker_queue? it has "),
        (["--param", "warm_start=champion"], "--param warm_start: the pipeline has no such parameter; did you mean --set run.warm_start? it has "),
        (["--workers", "2", "--param", "workers=3"], "workers is given twice: by --workers and by --param; use one"),
        (["--preset", "dmo"], "unknown preset 'dmo'"),
        (["--set", "train.stps=5"], "--set names an unknown field 'train.stps'"),
        (["--model-name", "2026"], "model name '2026' is a number"),
        (["--model-name", "a/b"], "model name 'a/b' must start with"),
        (["--registry", "/data/registry"], "registry /data/registry is not on a volume mounted in the pods; name a folder below /mnt/charloom"),
        (["--registry", "/mnt/charloom/../x"], "registry /mnt/charloom/../x is not on a volume"),
        (["--registry", "registry"], "registry is 'registry'; it must be a folder"),
        (["--workers", "0"], "workers is 0; it must be at least 1"),
        (["--param", "worker_deadline_hours=0"], "worker_deadline_hours is 0; it must be above 0"),
        (["--param", "corpus_window_days=0"], "corpus_window_days is 0; it must be at least 1"),
        (["--set", "gate.max_perplexity=-1"], "gate.max_perplexity is -1"),
        (["--set", "run.warmstart=champion"], "--set names an unknown field 'run.warmstart'; did you mean run.warm_start"),
        (["--workers", "3"], "train.lanes is 32, which 3 workers can't share; set train.lanes=33"),
        (["--param", "worker_memory=abc"], "worker_memory is 'abc'; it must be an amount of memory such as 8Gi, at least 128Mi"),
        (["--param", "worker_memory=16 GB"], "worker_memory is '16 GB'; it must be an amount of memory"),
        (["--param", "prepare_memory=16"], "prepare_memory is '16'; it must be an amount of memory"),
        (["--param", "worker_cpu=2Gi"], "worker_cpu is '2Gi'; it must be a number of CPUs such as 2 or 500m"),
        (["--param", "worker_image=charloom-gpu"], "worker_image 'charloom-gpu' has no version, so runs"),
        (["--image", ""], "the image '' has no version"),
        (["--gpus-per-worker", "-1"], "worker_gpus is -1; it must be at least 0"),
        (["--max-divergence", "2"], "run.max_divergence is 2"),
        (["--max-new-word-rate", "0.1"], "run.max_new_word_rate has no effect without run.compare_to"),
        (["--extend-vocab"], "run.extend_vocab needs words to extend"),
        (["--steps-share", "0.3"], "run.steps_share has no effect without run.warm_start; set train.steps instead"),
        (["--warm-start", "champion", "--steps-share", "2"], "run.steps_share is 2"),
        (["--image", "charloom:latest"], "the image 'charloom:latest' has no version"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_any_request(
    server: Server, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert submit(*flags) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"charloom: {message}")
    assert err.count("\n") == 1
    assert server.requests == []


def test_names_that_somebody_takes_in_between(server: Server) -> None:
    """Two submit at once: each look-up says that nothing is there, then the other has made it."""
    assert submit() == 0
    server.faults = {
        "GET experiments": ["empty"],
        "GET pipelines/names/.*": [404],
        "GET pipelines/[^/]*/versions": ["empty"],
    }
    assert submit() == 0
    for table, count in (("pipelines", 1), ("versions", 1), ("experiments", 1), ("runs", 2)):
        assert len(server.store.all(table)) == count
    for path in ("experiments", "pipelines", "pipelines/upload_version"):
        assert len(server.sent("POST", path)) == 2


@pytest.mark.parametrize("fault", ["drop", "lose", 503, 429])
@pytest.mark.parametrize(
    "request_of",
    ["POST experiments", "POST pipelines", "POST pipelines/upload_version", "POST runs"],
)
def test_broken_connections_make_nothing_twice(
    server: Server, request_of: str, fault: str | int
) -> None:
    server.faults = {request_of: [fault]}
    assert submit("--name", "mine") == 0
    assert not server.faults[request_of]
    for table in ("pipelines", "versions", "experiments", "runs"):
        assert len(server.store.all(table)) == 1


@pytest.mark.parametrize(
    ("states", "code", "line"),
    [
        ({"export": "SUCCEEDED", "report_rejection": "SKIPPED"}, 0, ""),
        ({"report_rejection": "SUCCEEDED"}, 3, "REJECTED by the gate; report: "),
        ({"train": "FAILED"}, 1, "the run failed at Train; its logs: "),
        ({"train": "CANCELED"}, 130, "the run was terminated; its logs: "),
    ],
)
def test_waiting(
    server: Server,
    capsys: pytest.CaptureFixture[str],
    states: dict[str, str],
    code: int,
    line: str,
) -> None:
    def become(state: str, **tasks: str) -> None:
        server.set_run(server.store.all("runs")[0]["run_id"], state, **tasks)

    end = next((one for one in states.values() if one in ("FAILED", "CANCELED")), "SUCCEEDED")
    server.faults = {
        "GET runs/.*": [
            lambda: become("RUNNING", preprocess="RUNNING", preprocess_driver="SUCCEEDED"),
            "drop",
            503,
            lambda: become("RUNNING", preprocess="SUCCEEDED", train="RUNNING"),
            lambda: become(end, preprocess="SUCCEEDED", **({"train": "SUCCEEDED"} | states)),
        ]
    }
    assert submit("--wait") == code
    out, err = capsys.readouterr()
    link = f"{server.host}/#/runs/details/{server.store.all('runs')[0]['run_id']}"
    assert err == (f"charloom: {line}{link}\n" if line else "")
    shown = [re.sub(r"^\d\d:\d\d:\d\d ", "", text) for text in out.splitlines()[4:]]
    assert shown[:3] == ["Preprocess: runs", "Preprocess: done", "Train: runs"]
    assert ("the run is done" in shown) == (code == 0)


def test_ctrl_c_ends_the_waiting_only(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted:
        """Stands in for the module `time`, which threads of other tests use, too."""

        def __getattr__(self, name: str) -> Any:
            if name == "sleep":
                raise KeyboardInterrupt
            return getattr(time, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_monitor, "time", Interrupted())
        assert submit("--wait") == 130
    (run,) = server.store.all("runs")
    assert run["state"] == "PENDING"
    assert capsys.readouterr().err == (
        "charloom: stopped waiting; the run continues; to stop it, press Terminate on "
        f"{server.host}/#/runs/details/{run['run_id']}\n"
    )


def test_a_login_that_ends_while_waiting(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {"GET runs/.*": [401]}
    assert submit("--wait") == 2
    err = capsys.readouterr().err
    assert "rejects the credentials (401)" in err
    assert "; the run continues: http" in err


def test_a_server_away_for_too_long(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_monitor, "LOST_SECONDS", 0.0)
    server.faults = {"GET runs/.*": ["drop"] * 1000}
    assert submit("--wait") == 75
    assert "the run continues: http" in capsys.readouterr().err


def test_the_task_of_a_rejection_is_in_the_pipeline() -> None:
    spec, _ = read_specs(COMMITTED)
    assert run_monitor.REJECTED_TASK in list_tasks(spec)
    names = run_monitor.task_names(spec)
    assert set(names) == set(list_tasks(spec))
    assert names["train"] == "Train"
    assert json.dumps(names).count("ondition") == 0
