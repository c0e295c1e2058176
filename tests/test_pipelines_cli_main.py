"""The command line as a person uses it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from model.config import to_dict
from model.presets import tiny
from pipelines.cli import shared, stages
from pipelines.cli.main import build_parser, main


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Runs a command that must fail; returns its one line on stderr."""
    assert main(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("charloom: ")
    return lines[0].removeprefix("charloom: ")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipelines.cli.main import build_parser; build_parser().format_help(); "
        "print([m for m in ('tensorflow', 'keras', 'kfp', 'apache_beam', 'numpy') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--preset", "dmo"],
            "unknown preset 'dmo'; choose one of tiny, demo, small, brown, onebillion; did you mean demo?",
        ),
        (
            ["--set", "train.stps=5"],
            "--set names an unknown field 'train.stps'; did you mean train.steps",
        ),
        (["--set", "train.steps=no"], "train.steps is 'no'; it must be a whole number"),
        (["--set", "train.steps"], "--set 'train.steps' has no '='"),
        (["--config", "/no/such.json"], "/no/such.json: No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", ["train", "run", "prepare"])
def test_bad_settings(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    flags: list[str],
    message: str,
) -> None:
    places = {
        "train": ["--records", "r", "--workdir", str(tmp_path / "made")],
        "run": ["--input", "x.txt", "--root", str(tmp_path / "made")],
        "prepare": ["--input", "x.txt", "--records", str(tmp_path / "made")],
    }
    assert fails(capsys, command, *places[command], *flags).startswith(message)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("command", "setting", "allowed"),
    [
        ("train", "data.tokenizer=whitespace", "model, train, gate"),
        ("evaluate", "model.lstm_dim=7", "gate"),
    ],
)
def test_settings_without_effect(
    capsys: pytest.CaptureFixture[str], tiny_training: str, command: str, setting: str, allowed: str
) -> None:
    folders = ["--records", "r", "--workdir", tiny_training]
    assert fails(capsys, command, *folders, "--set", setting) == (
        f"--set {setting} has no effect on charloom {command}, which uses fields of {allowed}; "
        "set it for the command that writes the folder"
    )


def test_a_config_that_is_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe{}")
    line = fails(capsys, "train", "--records", "r", "--workdir", "w", "--config", str(path))
    assert line == f"{path} is not UTF-8 text; make it again"


def test_a_wrong_input_is_told_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = fails(capsys, "run", "--input", "nope*.txt", "--root", str(tmp_path / "made"))
    assert line == "no file matches --input 'nope*.txt'; check the path and the pattern"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["2026", "a/b"])
@pytest.mark.parametrize("command", ["run", "export"])
def test_a_bad_model_name_is_refused_before_anything_is_looked_at(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    name: str,
) -> None:
    """Only the last step uses it."""
    made, missing = str(tmp_path / "made"), str(tmp_path / "missing")
    flags = {
        "run": ["--input", missing, "--root", made],
        "export": ["--records", missing, "--workdir", missing, "--registry", made],
    }
    monkeypatch.setattr(stages, "import_tensorflow", lambda: pytest.fail("took its time"))
    line = fails(capsys, command, *flags[command], "--name", name)
    assert line.startswith(f"model name '{name}' ")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "limits"),
    [
        ([], None),
        (["--max-latency-ms", "7"], {"latency_ms": 7.0}),
        (["--max-memory-mb", "0"], {"memory_mb": 0.0}),
        (["--max-memory-mb", "9", "--max-latency-ms", "8"], {"latency_ms": 8.0, "memory_mb": 9.0}),
    ],
)
def test_export_hands_on_a_budget_only_if_one_is_given(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], limits: dict[str, float] | None
) -> None:
    from components.export.checking import Budget

    found: list[Any] = []
    monkeypatch.setattr("components.export.main.run", lambda **given: found.append(given["budget"]))
    folders = ["--records", "r", "--workdir", "w", "--registry", "m"]
    assert main(["export", *folders, *flags]) == 0
    assert found == [None if limits is None else Budget(**limits)]


@pytest.mark.parametrize(
    ("flag", "changed"),
    [
        ("--on-bad-text=skip", {"on_bad_text": "skip", "max_stray_bytes": 0.0}),
        ("--encoding=latin-1", {"encoding": "latin-1"}),
        ("--tokenizer=whitespace", {"tokenizer": "whitespace"}),
        ("--lowercase", {"lowercase": True}),
        ("--no-sentence-marks", {"sentence_marks": False}),
        ("--document=paragraph", {"document": "paragraph"}),
        ("--vocab-size=77", {"vocab_size": 77}),
        ("--min-count=5", {"min_count": 5}),
    ],
)
@pytest.mark.parametrize("command", [["prepare", "--records", "r"], ["run", "--root", "r"]])
def test_flags_set_fields_of_data(
    command: list[str], flag: str, changed: dict[str, object]
) -> None:
    settings = ["--set", "data.sentence_marks=true", "--set", "data.max_stray_bytes=0.05"]
    common = [*command, "--input", "x", "--preset", "tiny", *settings]
    before, after = (
        to_dict(shared.read_settings(build_parser().parse_args(arguments))[0].data)
        for arguments in (common, [*common, flag])
    )
    assert before == {**to_dict(tiny().data), "sentence_marks": True, "max_stray_bytes": 0.05}
    assert after == {**before, **changed}
    assert after != before


def test_a_flag_with_a_bad_value(capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--input", "x", "--records", "r"]
    assert fails(capsys, "prepare", *places, "--vocab-size", "many") == (
        "data.vocab_size is 'many'; it must be a whole number"
    )


def test_prepare_takes_splits_and_a_vocabulary(corpus: Path, tmp_path: Path) -> None:
    first, second, third, *rest = sorted(str(path) for path in corpus.iterdir())
    (tmp_path / "words").write_text("the\nof\n")
    places = ["--train", first, *rest, "--valid", second, "--test", third]
    records = ["--vocab", str(tmp_path / "words"), "--records", str(tmp_path / "records")]
    assert main(["prepare", *places, *records]) == 0
    info = json.loads((tmp_path / "records" / "dataset.json").read_text())
    assert info["input"]["split_files"] == {"train": len(rest) + 1, "valid": 1, "test": 1}
    assert (info["vocab"]["size"], info["vocab"]["given_words"]) == (5, 2)


def test_prepare_and_run_name_files_below_the_source_root(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--input", str(corpus), "--source-root", str(corpus.parent)]
    assert main(["prepare", *given, "--preset", "tiny", "--records", str(tmp_path / "r")]) == 0
    info = json.loads((tmp_path / "r" / "dataset.json").read_text())
    assert info["input"]["source_root"] == str(corpus.parent)
    found: list[str] = []

    def graph(**arguments: Any) -> None:
        found.extend(arguments["settings"])
        raise RuntimeError("far enough")

    monkeypatch.setattr("pipelines.local.runner._graph_for_here", lambda: graph)
    assert main(["run", *given, "--preset", "tiny", "--root", str(tmp_path / "root")]) == 1
    assert found == [f"run.source_root={corpus.parent}"]


def test_splits_beside_input(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "prepare", "--input", "x", "--train", "y", "--records", "r")
    assert line.startswith("--input and --train exclude each other; name all text with")
    assert fails(capsys, "prepare", "--records", "r").startswith("no input given; name files")


def test_a_bad_vocabulary_is_told_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    places = ["--input", str(corpus), "--root", str(tmp_path / "made")]
    line = fails(capsys, "run", *places, "--vocab", "/no/such")
    assert line == "--vocab /no/such: No such file or directory"
    assert not (tmp_path / "made").exists()


def test_config_of_another_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"config_version": 0}')
    line = fails(capsys, "run", "--input", "x", "--root", "r", "--config", str(path))
    assert line == (
        f"{path} was made with config version 0, but this charloom reads version 1; "
        "run the stage that wrote it again"
    )


def test_a_folder_that_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = fails(capsys, "score", "--model", str(tmp_path), "text")
    assert line.startswith(f"{tmp_path} is not an exported model; name a version's folder")


def test_internal_errors_have_no_traceback_without_debug(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "1"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"garbage")
    assert "can't be loaded" in fails(capsys, "score", "--model", str(model), "text")
    assert main(["--debug", "score", "--model", str(model), "text"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_report_comes_before_an_export(
    capsys: pytest.CaptureFixture[str],
    tiny_records: str,
    tiny_training: str,
    tiny_report: str,
    tmp_path: Path,
) -> None:
    """test_docs.py has all stages end well; test_pipelines_cli_streams.py a gate that says no."""
    report, registry = tmp_path / "report", tmp_path / "registry"
    command = ["export", "--records", tiny_records, "--workdir", tiny_training]
    command += ["--report", str(report), "--registry", str(registry), "--name", "toy"]
    assert fails(capsys, *command) == f"{report}/report.json has no verdict; run charloom evaluate"
    content = json.loads(Path(tiny_report, "report.json").read_text())
    content["verdict"]["status"] = "REJECTED"
    report.mkdir()
    (report / "report.json").write_text(json.dumps(content))
    assert main(command) == 3
    assert not registry.exists()


@pytest.fixture(scope="module")
def version(tiny_version: str) -> Iterator[Path]:
    """A version that the commands of this module load once between them."""
    load = functools.cache(tf.saved_model.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.saved_model, "load", lambda path: load(path))
        yield Path(tiny_version)


def test_next(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["next", "--model", str(version), "the old man went to the"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 5
    probabilities = [float(probability) for probability, _ in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) < 1
    assert not {"<unk>", "<s>"} & {word for _, word in rows}


def test_score_does_not_depend_on_company(
    version: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["The cat sat by the fire.", "A boat came down the river\nin the snow."]

    def scores(*chosen: str) -> list[str]:
        assert main(["score", "--model", str(version.parent), *chosen]) == 0
        header, *lines = capsys.readouterr().out.splitlines()
        assert header == "log_likelihood\twords\tunknown_words\tperplexity\ttext"
        return lines

    together = scores(*texts)
    assert len(together) == 2
    assert together[1:] == scores(texts[1])


def test_score_reads_files_and_writes_json(
    version: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("the cat\nthe boat and the frobnicated\n")
    command = ["score", "--model", str(version), "--format", "jsonl", "--input", str(path)]
    assert main(command) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["tokens"] for row in rows] == [
        ["the", "cat"],
        ["the", "boat", "and", "the", "frobnicated"],
    ]
    assert [row["unknown"] for row in rows] == [[False] * 2, [False] * 4 + [True]]
    assert [row["unknown_words"] for row in rows] == [0, 1]
    for row in rows:
        assert sum(row["word_log_likelihoods"]) == pytest.approx(row["log_likelihood"], rel=1e-5)


def test_embed(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--model", str(version), "the frobnicated cat"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["tokens"] == ["the", "frobnicated", "cat"]
    assert [len(layers) for layers in row["embeddings"]] == [1, 1, 1]
    assert len(row["embeddings"][0][0]) == 24


def test_texts_that_are_not_utf_8(
    version: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"the cat\nthe \xff cat\n")
    command = ["score", "--model", str(version), "--input", str(path)]
    assert fails(capsys, *command) == f"--input {path} is not UTF-8 in line 2 at byte 4"
    for verb in ("score", "next"):
        line = fails(capsys, verb, "--model", str(version), "a \udcff")
        assert line == "the text is not UTF-8 at character 2: 'a \\udcff'"


def test_queries_without_text(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "score", "--model", str(version))
    assert line == "no text given; pass texts, --input FILE, or --input - for stdin"
    assert fails(capsys, "next", "--model", str(version), "-k", "0", "the") == (
        "-k is 0; it must be at least 1 and below 2^31"
    )


def test_the_demo_preset_tells_stray_bytes_from_another_encoding(
    shared_data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    records = tmp_path / "records"
    nixon = ["prepare", "--preset", "demo", "--records", str(records)]
    nixon += ["--input", str(shared_data / "state_union" / "197*.txt")]
    assert "1970-Nixon.txt is not utf-8 text (the byte 0xa1 at byte offset 1520)" in fails(
        capsys, *nixon, "--on-bad-text=error"
    )
    assert main(nixon) == 0
    assert "329 stray bytes replaced" in capsys.readouterr().out
    finnish = str(shared_data / "genesis" / "finnish.txt")
    command = ["prepare", "--preset", "demo", "--input", finnish]
    line = fails(capsys, *command, "--records", str(tmp_path / "made"))
    assert line == (
        f"{finnish} is not utf-8 text (the byte 0xe4 at byte offset 57); try --encoding latin-1, "
        "or --on-bad-text=skip|replace"
    )
    assert not (tmp_path / "made").exists()
