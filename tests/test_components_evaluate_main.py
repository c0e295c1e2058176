from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.evaluate import component, main, report_tables
from components.evaluate.main import check_folder, judge, publish, run, summarise
from components.evaluate.markdown import render_markdown
from components.evaluate.page import render_page
from components.evaluate.report import REPORT_FORMAT
from model.config import Config, GateConfig, to_dict, to_json
from model.errors import InputError
from model.evaluation import evaluate
from model.evaluation import report as model_report
from model.presets import tiny

FILES = {"report.json", "report.html", "report.md", "COMPLETED"}


def make_report(perplexity: float = 100.0) -> dict[str, Any]:
    def score(value: float) -> dict[str, Any]:
        total = -1000 * math.log(value)
        return {"log_likelihood": total, "words": 1000, "perplexity": math.exp(-total / 1000)}

    return {
        "format_version": 4,
        "splits": {
            "test": {
                **score(perplexity),
                "unknown_words": 0,
                "left_out": {"words": 0, "unknown": None},
            },
        },
        "baseline": {"unigram": score(400.0), "bigram": score(350.0)},
        "champion": None,
        "reference": None,
        "seconds": {"training": None, "evaluation": 1.0},
    }


def judged(perplexity: float = 100.0) -> dict[str, Any]:
    return judge(make_report(perplexity), Config(gate=GateConfig(max_perplexity=200.0)))


def read_json(folder: str | Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (Path(folder) / "report.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_gate_and_page_know_the_form_of_the_report() -> None:
    assert REPORT_FORMAT == evaluate.REPORT_VERSION
    assert tuple(report_tables.SLICES) == model_report.SLICES


@pytest.mark.parametrize(
    ("perplexity", "status", "reasons"),
    [
        (
            100.0,
            "PASSED",
            [
                "test perplexity 100.00 is at most the limit of 200.00",
                "0.00% of the test words are unknown, at most the limit of 50.00%",
                "test perplexity 100.00 is not above the unigram baseline's 400.00 on the same "
                "1,000 words",
                "test perplexity 100.00 is not above the bigram baseline's 350.00 on the same "
                "1,000 words",
                "there is no champion to compare with",
            ],
        ),
        (
            300.0,
            "REJECTED",
            ["test perplexity 300.00 is above the limit of 200.00 (gate.max_perplexity)"],
        ),
    ],
)
def test_verdict_is_in_report_page_and_summary(
    tmp_path: Path, perplexity: float, status: str, reasons: list[str]
) -> None:
    folder = tmp_path / "new" / "report"
    report = publish(judged(perplexity), str(folder))
    assert set(read_all(folder)) == FILES
    assert read_json(folder) == report
    assert report["verdict"] == {
        "status": status,
        "reasons": reasons,
        "comparison": None,
        "reference": None,
    }
    assert report["gate"] == {
        **to_dict(GateConfig()),
        "max_perplexity": 200.0,
        "beat": ["unigram", "bigram"],
    }
    shown = (folder / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    assert all(f"<li>{reason}</li>" in shown for reason in reasons)
    assert summarise(report, "out") == [
        f"test perplexity {perplexity:.2f} on 1,000 words, unigram baseline 400.00",
        f"report: {os.path.join('out', 'report.html')}",
        f"verdict: {status}",
        *(f"  {reason}" for reason in reasons),
    ]


@pytest.mark.parametrize(("unknown", "warned"), [(0.1, False), (0.11, True)])
def test_many_unknown_words_are_told(unknown: float, warned: bool) -> None:
    report = judged()
    test = report["splits"]["test"]
    test["unknown_words"] = round(unknown * test["words"])
    warnings = [line for line in summarise(report, "out") if line.startswith("warning")]
    assert warnings == warned * [
        "warning: 11% of the test words are unknown, so the perplexity means little; raise "
        "data.vocab_size, lower data.min_count or provide more text"
    ]


def test_what_is_left_out_is_said() -> None:
    report = judged()
    left_out = {"records": 3, "words": 1200, "share": 0.25, "sampled_share": 0.5, "unknown": None}
    line = "left out: 3 test records of 1,200 words (25.0% of the split) that a model has seen in training"
    assert line not in summarise(report, "out")
    report["splits"]["test"]["left_out"] = left_out
    assert summarise(report, "out")[1] == line
    remark = (
        f"scored by the full softmax; {report_tables.format_count(1200)} more were left out, seen in training "
        "(looked up in a sample of 50.0\u00a0%)"
    )
    assert remark in render_page(report)
    assert remark in render_markdown(report)


def test_figures_that_are_not_finite_become_null(tmp_path: Path) -> None:
    measured = make_report()
    measured["splits"]["test"]["perplexity"] = math.nan
    measured["curves"] = {"valid": ({"step": 1, "perplexity": math.inf},)}
    report = publish(judge(measured, Config()), str(tmp_path / "report"))
    written = read_json(tmp_path / "report")
    assert written == report
    assert written["splits"]["test"]["perplexity"] is None
    assert written["curves"] == {"valid": [{"step": 1, "perplexity": None}]}
    # The gate saw the real value.
    assert written["verdict"]["reasons"] == ["splits.test.perplexity is nan; it must be finite"]
    assert math.isnan(measured["splits"]["test"]["perplexity"])
    assert summarise(report, "out")[0] == (
        "test perplexity not available on 1,000 words, unigram baseline 400.00"
    )


def test_empty_folder_is_used_and_earlier_report_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    publish(judged(100.0), str(folder))
    assert read_json(folder)["verdict"]["status"] == "PASSED"
    (folder / "COMPLETED").unlink()  # as left by something else
    publish(judged(300.0), str(folder))
    assert read_json(folder)["verdict"]["status"] == "REJECTED"
    assert set(read_all(folder)) == FILES
    assert os.listdir(tmp_path) == ["report"]  # nothing temporary is left


def test_a_mounted_folder_is_used_and_its_report_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.files._is_mount_point", lambda folder: True)
    folder = tmp_path / "report"
    (folder / "lost+found").mkdir(parents=True)
    for perplexity, status in ((100.0, "PASSED"), (300.0, "REJECTED")):
        publish(judged(perplexity), str(folder))
        assert read_json(folder)["verdict"]["status"] == status
        assert set(os.listdir(folder)) == FILES | {"lost+found"}
    assert os.listdir(tmp_path) == ["report"]


def test_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    publish(judged(), str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert set(read_all(tmp_path / "real")) == FILES


@pytest.mark.parametrize(
    ("names", "other"),
    [
        (["notes.txt"], "notes.txt"),
        (["COMPLETED"], "COMPLETED"),
        (["report.html"], "report.html"),
        (["report.json", "saved_model.pb"], "saved_model.pb"),  # a version in the registry
    ],
)
def test_folder_with_something_else_is_left_alone(
    tmp_path: Path, names: list[str], other: str
) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine", encoding="utf-8")
    before = read_all(folder)
    for write in (check_folder, lambda path: publish(judged(), path)):
        with pytest.raises(InputError) as caught:
            write(str(folder))
        assert str(caught.value) == (
            f"{folder} already holds something else ({other}); choose another folder for the report"
        )
    assert read_all(folder) == before
    assert os.listdir(tmp_path) == ["report"]


@pytest.mark.parametrize("name", ["file", "file/report"])
def test_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="can't be written") as caught:
        publish(judged(), str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert read_all(tmp_path) == {"file": b"mine"}


def test_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    publish(judged(), str(folder))
    before = read_all(folder)
    with pytest.raises(TypeError):
        publish({**judged(), "later": object()}, str(folder))
    assert read_all(folder) == before
    assert os.listdir(tmp_path) == ["report"]


def test_reader_never_sees_half_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    publish(judged(), str(folder))
    done = threading.Event()
    seen: list[set[str]] = []

    def watch() -> None:
        while not done.is_set():
            try:
                before, names = os.stat(folder), set(os.listdir(folder))
                if os.path.samestat(before, os.stat(folder)):  # else it was replaced meanwhile
                    seen.append(names)
            except FileNotFoundError:  # between the two renames
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        publish(judged(), str(folder))
    done.set()
    watcher.join()
    assert seen
    assert all(names in (FILES, set()) for names in seen)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "status"), [(1000.0, "PASSED"), (1.0, "REJECTED")])
def test_run_on_a_trained_model(
    tmp_path: Path,
    tiny_records: str,
    tiny_training: str,
    capsys: pytest.CaptureFixture[str],
    limit: float,
    status: str,
) -> None:
    config = dataclasses.replace(tiny(), gate=GateConfig(max_perplexity=limit, beat=()))
    folder = tmp_path / "report"
    report = run(records=tiny_records, workdir=tiny_training, report=str(folder), config=config)
    assert report["verdict"]["status"] == status
    assert read_json(folder) == report
    lines = capsys.readouterr().out.splitlines()
    assert lines[-len(report["verdict"]["reasons"]) - 1] == f"verdict: {status}"
    assert lines[-1].strip() == report["verdict"]["reasons"][-1]
    shown = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{report['parameters']:,}" in shown
    assert shown.count("<svg") == 2
    # Every figure of a real report finds its place; of an empty slice there is none.
    full = all(part["words"] for part in report["splits"]["test"]["slices"].values())
    assert ("not available" in shown) != full


@pytest.mark.slow
def test_run_looks_at_the_folder_before_it_evaluates(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="already holds something else"):
        run(records="missing", workdir="missing", report=str(tmp_path), config=tiny())


def test_champion_and_reference_reach_what_scores_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []

    def evaluate_checkpoint(**folders: str) -> dict[str, Any]:
        asked.append(folders)
        return make_report()

    monkeypatch.setattr(main, "evaluate_checkpoint", evaluate_checkpoint)
    folders = {"records": "r", "workdir": "w", "champion": "lm/3", "reference": "lm/1"}
    report = run(report=str(tmp_path / "report"), config=Config(), identity="i", **folders)
    assert asked == [folders]
    assert (report["run"], report["verdict"]["status"]) == ("i", "PASSED")


def test_the_component_hands_on_what_the_model_is_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def record(**arguments: Any) -> dict[str, Any]:
        asked.update(arguments)
        return publish(judged(), arguments["report"])

    monkeypatch.setattr(main, "run", record)
    names = ("records", "workdir", "report", "page", "summary", "metrics")
    artifacts = {name: SimpleNamespace(path=str(tmp_path / name)) for name in names}
    artifacts["metrics"].log_metric = lambda name, value: None
    compared = {"champion": "lm/3", "reference": "lm/1", "identity": "i"}
    body = component.evaluate.python_func
    assert body(config=to_json(tiny()), **artifacts, **compared) == ("PASSED",)
    paths = {name: str(tmp_path / name) for name in names[:3]}
    assert asked == {"config": tiny(), **paths, **compared}
