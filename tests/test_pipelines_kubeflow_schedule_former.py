"""`charloom schedule` and schedules that an older charloom made."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp_server import serve

from pipelines.cli.main import main
from pipelines.kubeflow import client

CREATE = ["schedule", "create", "--image", "registry.example.com/charloom:1.2"]
CREATE += ["--name", "nightly", "--cron", "0 0 2 * * *"]
LINE = (
    "nightly has parameters from an older charloom (inputs, window_days) and still uses that "
    "version of the pipeline and its image; charloom schedule create --name nightly with the current "
    "flags replaces it"
)


def test_former_parameters_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client._Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))
    with serve(tmp_path) as server:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)

        def reported(*command: str) -> list[str]:
            assert main(["schedule", *command]) == 0
            out = capsys.readouterr().out
            return [line for line in out.splitlines() if "older charloom" in line]

        assert main([*CREATE, "--param", "corpus_window_days=7"]) == 0
        assert reported("list") == []
        (run,) = server.store.all("recurringruns")
        run |= {"runtime_config": {"parameters": {"inputs": "[]", "window_days": 7, "workers": 2}}}
        server.store.put("recurringruns", run["recurring_run_id"], run)
        (version,) = server.store.all("versions")  # whose graph still has them
        root = version["pipeline_spec"]["pipeline_spec"]["root"]
        root["inputDefinitions"]["parameters"] |= {
            "inputs": {"parameterType": "STRING"},
            "window_days": {"parameterType": "NUMBER_INTEGER"},
        }
        server.store.put("versions", version["pipeline_version_id"], version)
        assert reported("list") == [LINE]
        assert reported("pause", "nightly") == []
        assert reported("resume", "nightly") == [LINE]
        assert reported("run-now", "nightly") == [LINE]
        (started,) = server.store.all("runs")
        assert started["runtime_config"] == run["runtime_config"]  # as it was made
