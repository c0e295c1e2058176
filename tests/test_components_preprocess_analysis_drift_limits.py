"""Both branches of the limits of drift, on the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.preprocess.analysis.drift import Drift, compare_vocabularies
from components.preprocess.analysis.drift_limits import (
    apply_limits,
    check_drift,
    extend_fingerprint,
)
from components.run_settings import DEFAULTS, RunSettings
from model.errors import InputError, RejectedError
from model.text.vocab import SPECIAL_WORDS, Vocabulary
from pipelines.cli.main import main

# Of 8 words: new a 4, c 4; old a 4, b 4. So half of the words are new. Divergence: b and c each
# 1/2 * 1/2 * log2(2), a nothing.
NEW_TEXT, OLD_TEXT = "a a c c\nc c a a\n", "a b a b a b a b\n"
SETTINGS = ["data.min_count=1", "data.valid_fraction=0", "data.test_fraction=0"]
SETTINGS += ["data.sentence_marks=false"]
FLAGS = ["--preset", "tiny", *(word for one in SETTINGS for word in ("--set", one))]
REPORT = """\
RECORDS compared to OTHER:
new words: 50.00% of 8 training words (4 known ones, 0 unknown beyond the usual); unknown: 0.00%, \
in the other 0.00%
vocabulary: 1 of 2 words are new (50.00%); 1 of the other's 2 are gone, 50.00% of its training words
Jensen-Shannon divergence of the unigrams: 0.50000 bits (0 the same, 1 nothing shared)
most divergent: b 0.25000, c 0.25000
most frequent new words: c 4
most frequent words that are gone: b 4
"""
REJECTION = (
    "the words of RECORDS have drifted too far from OTHER: FIGURES; the records are complete and "
    "kept: look at their new and most divergent words, then leave out text that does not belong, "
    "or raise the limit and run it again"
)

Prepare = Callable[..., int]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Records of OLD_TEXT; read only."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "old.txt").write_text(OLD_TEXT)
    records = str(folder / "records")
    assert main(["prepare", "--input", f"{folder}/old.txt", "--records", records, *FLAGS]) == 0
    return records


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Prepares NEW_TEXT into `tmp_path`/records; returns the exit code."""
    (tmp_path / "new.txt").write_text(NEW_TEXT)
    places = ["--input", f"{tmp_path}/new.txt", "--records", f"{tmp_path}/records"]
    return lambda *flags: main(["prepare", *places, *FLAGS, *flags])


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def filled(text: str, records: object, other: object) -> str:
    return text.replace("RECORDS", str(records)).replace("OTHER", str(other))


def test_the_figures_are_printed(
    prepare: Prepare, old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare() == 0
    alone = read_folder(tmp_path / "records")
    assert capsys.readouterr().out.splitlines()[-1].startswith("test ")
    shutil.rmtree(tmp_path / "records")
    limits = ["--max-new-word-rate", "0.5", "--max-divergence", "0.5"]  # not above them
    assert prepare("--compare-to", old, *limits) == 0
    out, err = capsys.readouterr()
    assert out.endswith(filled(REPORT, tmp_path / "records", old))
    assert err == ""
    # The folder is a function of input and config.
    assert read_folder(tmp_path / "records") == alone


@pytest.mark.parametrize(
    ("limits", "figures"),
    [
        (
            ["--max-new-word-rate", "0.25"],
            "new-word rate 0.50000 (above run.max_new_word_rate 0.25000), "
            "Jensen-Shannon divergence 0.50000 (no limit)",
        ),
        (
            ["--max-divergence", "0.4999999", "--max-new-word-rate", "0.75"],
            "new-word rate 0.50000 (at most run.max_new_word_rate 0.75000), "
            "Jensen-Shannon divergence 0.5000000 (above run.max_divergence 0.4999999)",
        ),
        (
            ["--max-divergence", "0", "--max-new-word-rate", "0"],
            "new-word rate 0.50000 (above run.max_new_word_rate 0.00000), "
            "Jensen-Shannon divergence 0.50000 (above run.max_divergence 0.00000)",
        ),
    ],
)
def test_above_a_limit_the_records_stay_and_are_compared_again(
    prepare: Prepare,
    old: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    limits: list[str],
    figures: str,
) -> None:
    records = tmp_path / "records"
    line = filled(REJECTION, records, old).replace("FIGURES", figures)
    report = filled(REPORT, records, old)
    assert prepare("--compare-to", old, *limits) == 3
    out, err = capsys.readouterr()
    assert out.endswith(report)
    assert err == f"charloom: {line}\n"
    before = read_folder(records)
    assert {"COMPLETED", "dataset.json", "vocab.txt"} < set(before)
    assert prepare("--compare-to", old, *limits) == 3
    out, err = capsys.readouterr()
    assert out == f"{records}: already prepared from this input with this config\n{report}"
    assert err == f"charloom: {line}\n"
    assert prepare("--compare-to", old) == 0  # without limits
    assert prepare("--compare-to", str(records), *limits) == 0  # no drift from itself
    assert read_folder(records) == before


def test_unknown_words_count_as_new_and_are_one_symbol(
    tmp_path: Path, old: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.txt").write_text("a a x y\n")  # x and y are seen once: unknown
    command = ["prepare", "--input", f"{tmp_path}/new.txt", "--records", f"{tmp_path}/records"]
    command += [*FLAGS, "--min-count", "2", "--compare-to", old]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "new words: 50.00% of 4 training words (0 known ones, 2 unknown beyond the usual)" in out
    assert "the unigrams: 0.50000 bits" in out
    assert "most divergent: <unk> 0.25000, b 0.25000\nmost frequent new words: none\n" in out


def no_folder(other: Path) -> str:
    shutil.rmtree(other)
    return f"run.compare_to {other} is not a folder of records; name one that charloom prepare made"


def no_marker(other: Path) -> str:
    (other / "COMPLETED").unlink()
    return (
        f"run.compare_to {other} is not complete (no COMPLETED that can be read); name a folder that "
        "charloom prepare made"
    )


def marker_of_noise(other: Path) -> str:
    no_marker_line = no_marker(other)
    (other / "COMPLETED").write_bytes(b"\xff\x00\xfe")
    return no_marker_line


def marker_is_a_folder(other: Path) -> str:
    no_marker_line = no_marker(other)
    (other / "COMPLETED").mkdir()
    return no_marker_line


def info_of_noise(other: Path) -> str:
    (other / "dataset.json").write_bytes(os.urandom(100))
    return f"{other}/dataset.json can't be read; run charloom prepare again"


def info_of_another_format(other: Path) -> str:
    info = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**info, "format_version": 1}))
    return (
        f"{other}/dataset.json has record format 1, but this charloom reads 2 and 3; "
        "run charloom prepare again"
    )


def vocabulary_is_a_folder(other: Path) -> str:
    (other / "vocab.txt").unlink()
    (other / "vocab.txt").mkdir()
    return f"{other}/dataset.json is not as charloom prepare writes it; prepare it again"


def vocabulary_cut_short(other: Path) -> str:
    (other / "vocab.txt").write_text((other / "vocab.txt").read_text()[:-2])
    return f"{other}/vocab.txt is not a vocabulary file; run charloom prepare again"


def vocabulary_of_other_counts(other: Path) -> str:
    text = (other / "vocab.txt").read_text()
    (other / "vocab.txt").write_text(text.replace("\t4\n", "\t5\n"))
    return f"{other}/vocab.txt was changed; run charloom prepare again"


@pytest.mark.parametrize(
    "damage",
    [
        no_folder,
        no_marker,
        marker_of_noise,
        marker_is_a_folder,
        info_of_noise,
        info_of_another_format,
        vocabulary_is_a_folder,
        vocabulary_cut_short,
        vocabulary_of_other_counts,
    ],
)
def test_a_folder_that_cannot_be_compared_to_is_told_before_the_work(
    prepare: Prepare,
    old: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], str],
) -> None:
    other = tmp_path / "other"
    shutil.copytree(old, other)
    line = damage(other)
    assert prepare("--compare-to", str(other)) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"charloom: {line}\n")
    assert not (tmp_path / "records").exists()


def test_words_of_another_kind_are_told_before_the_work(
    prepare: Prepare, old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare("--compare-to", old, "--lowercase") == 2
    assert capsys.readouterr().err == (
        f"charloom: the configuration has data.lowercase=true but {old} has false, so their words "
        "can't be compared; prepare one of them again with the same data.lowercase\n"
    )
    assert not (tmp_path / "records").exists()


def test_a_folder_that_vanishes_meanwhile(prepare: Prepare, old: str, tmp_path: Path) -> None:
    assert prepare() == 0
    gone = tmp_path / "gone"
    with pytest.raises(InputError) as caught:
        apply_limits(RunSettings(compare_to=str(gone)), str(tmp_path / "records"))
    assert str(caught.value) == (
        f"{tmp_path}/records can't be compared: {gone} is not a records folder; make it with "
        "charloom prepare"
    )


@pytest.mark.parametrize("command", ["prepare", "run"])
@pytest.mark.parametrize("flag", ["--max-new-word-rate", "--max-divergence"])
def test_limits_that_make_no_sense(
    command: str, flag: str, old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.txt").write_text(NEW_TEXT)
    place = {"prepare": "--records", "run": "--root"}[command]
    field = f"run.{flag.removeprefix('--').replace('-', '_')}"
    places = [command, "--input", f"{tmp_path}/new.txt", place, f"{tmp_path}/made"]
    for limit in ("-0.5", "1.5", "nan", "inf"):
        assert main([*places, "--compare-to", old, f"{flag}={limit}"]) == 2
        assert capsys.readouterr().err == (
            f"charloom: {field} is {float(limit)}; it must be between 0.0 and 1.0\n"
        )
    assert main([*places, flag, "0.5"]) == 2
    assert capsys.readouterr().err == (
        f"charloom: {field} has no effect without run.compare_to; name the records to compare with\n"
    )
    assert main([*places, "--compare-to", f"{tmp_path}/none", flag, "0.5"]) == 2
    assert capsys.readouterr().err.startswith(f"charloom: run.compare_to {tmp_path}/none is not")
    assert os.listdir(tmp_path) == ["new.txt"]


def test_wrong_limits_and_folders_are_told_before_tensorflow_is_loaded() -> None:
    code = (
        "import sys\n"
        "from pipelines.cli.main import main\n"
        "places = ['prepare', '--input', 'x', '--records', 'r']\n"
        "main([*places, '--max-divergence', '0.5'])\n"
        "main([*places, '--compare-to', '/no/such'])\n"
        "print([m for m in ('tensorflow', 'apache_beam', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr.count("charloom: run.") == 2


def make_drift(new: dict[str, int], old: dict[str, int]) -> Drift:
    return compare_vocabularies(
        *(
            Vocabulary(words=(*SPECIAL_WORDS, *words), counts=(0, 0, 0, *words.values()))
            for words in (new, old)
        )
    )


def test_all_words_new_are_within_no_limit() -> None:
    drift = make_drift({"a": 3}, {"b": 7})
    assert (drift.new_word_rate, drift.divergence) == (1.0, 1.0)
    check_drift(drift, DEFAULTS, "records")


def test_a_figure_that_is_none_is_above_any_limit() -> None:
    drift = dataclasses.replace(make_drift({"a": 1}, {"a": 1}), divergence=math.nan)
    with pytest.raises(RejectedError, match=r"divergence nan \(above run.max_divergence 1.00000\)"):
        check_drift(drift, RunSettings(compare_to="other"), "records")


def test_the_fingerprint_changes_with_the_other_records(old: str, tmp_path: Path) -> None:
    assert extend_fingerprint("abc", "") == "abc"
    copy = str(tmp_path / "copy")
    shutil.copytree(old, copy)
    digest = json.loads(Path(old, "dataset.json").read_text())["digest"]
    extended = [extend_fingerprint("abc", one) for one in (old, copy)]
    assert extended == [hashlib.sha256(f"abc {digest}".encode()).hexdigest()] * 2
    Path(copy, "COMPLETED").write_text("0" * 64 + "\n")
    assert extend_fingerprint("abc", copy) not in ("abc", extended[0])
