"""What a run is made of: configuration, dates, patterns and the fingerprint of the files."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from dated_files import NOON, write
from s3_server import BUCKET, S3Server, run_s3_server

from components.export.manifest import write_manifest
from components.preprocess.inputs import find as inputs
from components.preprocess.inputs.find import (
    RunInputs,
    expand_dates,
    find_inputs,
    fingerprint,
    read_patterns,
)
from components.preprocess.inputs.listing import find_files
from components.preprocess.inputs.listing_file import save_listing
from components.preprocess.sources.types import InputFile
from model.config import from_json, to_json, with_overrides
from model.errors import InputError
from model.presets import demo, tiny


def find(folder: Path, *settings: str, preset: str = "tiny", registry: str = "") -> RunInputs:
    return find_inputs(
        json.dumps([f"{folder}/*.txt"]),
        preset=preset,
        settings=settings,
        registry=registry,
        model_name="lm",
    )


def test_without_settings_a_run_is_of_the_preset_demo(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.txt")
    found = find_inputs(f"{tmp_path}/*.txt")
    assert from_json(found.config) == from_json(found.judged) == demo()
    assert json.loads(found.data) == {
        "config_version": 1,
        "data": json.loads(to_json(demo()))["data"],
    }
    assert from_json(found.data).data == demo().data
    assert (found.preparation, found.training) == ("{}", "{}")


def test_a_step_gets_only_what_it_depends_on(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    plain = find(tmp_path)
    stricter = find(tmp_path, "gate.max_perplexity=90.5")
    longer = find(tmp_path, "train.steps=61")
    whole = find(tmp_path, preset=to_json(with_overrides(tiny(), ["train.steps=61"])))
    lasting = find(tmp_path, "run.max_restarts=9")
    rooted = find(tmp_path, f"run.source_root={tmp_path}")
    assert stricter[:3] == plain[:3]  # neither records nor training are made again
    assert from_json(stricter.judged).gate.max_perplexity == 90.5
    assert from_json(plain.judged) == tiny()
    assert longer[:2] == plain[:2]  # the records are not made again
    assert from_json(longer.config).train.steps == 61
    assert whole == longer
    assert lasting == plain._replace(training='{"max_restarts": 9}')
    assert rooted == plain._replace(preparation=json.dumps({"source_root": str(tmp_path)}))


def publish(registry: Path, number: int, **report: object) -> str:
    """Makes what looks like a version of a model `lm` of the preset tiny, and it the champion."""
    version = registry / "lm" / str(number)
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"")
    (version / "config.json").write_text(to_json(tiny()))
    (version / "report.json").write_text(json.dumps(report))
    (registry / "lm" / "champion.json").write_text(json.dumps({"version": number}))
    write_manifest(str(version), {"checkpoint": f"c{number}"})
    return str(version)


def test_a_run_begins_with_the_champion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a.txt")
    registry = tmp_path / "registry"
    warm = ["run.warm_start=champion", "run.extend_vocab=true"]

    def begin(*settings: str) -> RunInputs:
        return find(tmp_path, *settings, registry=str(registry))

    first = begin(*warm, "gate.require_improvement=true")
    assert first[4:8] == ("", "", "", "{}")  # there is no champion: a cold start
    assert from_json(first.config) == tiny()
    assert from_json(first.judged).gate.require_improvement is True
    assert "no champion to begin with yet" in capsys.readouterr().out
    version = publish(registry, 1, run="another")
    second = begin(*warm)
    assert second[4:7] == (version, "", version)
    words = os.path.join(version, "vocab.txt")
    assert json.loads(second.preparation) == {"vocab": words, "extend_vocab": True}
    assert second.run != first.run  # it begins with other weights
    assert (first.begun, second.begun) == ("", "c1")
    assert second.fingerprint != first.fingerprint  # the version gives the words
    assert from_json(second.config) == with_overrides(
        tiny(), [f"train.steps={tiny().train.steps // 2}"]
    )
    begun = {"path": version, "checkpoint": "c1", "checkpoint_digest": "c1"}
    again = publish(registry, 2, run=second.run, champion=begun, warm_start=begun)
    assert begin(*warm)[4:8] == second[4:8]  # the same window twice
    own = begin(f"run.vocab={tmp_path}/a.txt")
    assert own[4:7] == (again, "", "")
    assert json.loads(own.preparation) == {"vocab": str(tmp_path / "a.txt")}


def test_what_is_cached_by_a_version_is_so_by_its_digest(tmp_path: Path) -> None:
    """Another version in the same folder, once the whole registry was made anew."""
    write(tmp_path, "a.txt", "words")
    warm, registry = "run.warm_start=champion", str(tmp_path)
    version = publish(tmp_path, 1)

    def look() -> tuple[RunInputs, RunInputs]:
        own = find(tmp_path, warm, f"run.vocab={tmp_path}/a.txt", registry=registry)
        return find(tmp_path, warm, registry=registry), own

    before = look()
    write_manifest(version, {"checkpoint": "another"})
    after = look()
    assert [one.base for one in (*before, *after)] == [version] * 4
    assert [one.begun for one in (*before, *after)] == ["c1", "c1", "another", "another"]
    assert after[0].fingerprint != before[0].fingerprint
    assert after[1].fingerprint == before[1].fingerprint  # its words are those of the file


def test_the_same_run_has_the_same_identity(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    warm = "run.warm_start=champion"
    run = find(tmp_path).run
    assert find(tmp_path, "gate.max_perplexity=3").run == run  # it trains the same model
    cold = find(tmp_path, warm, "run.steps_share=0.3", "run.extend_vocab=true")  # no champion
    assert cold.run == run
    others = [find(tmp_path, one).run for one in ("train.seed=7", f"run.vocab={tmp_path}/a.txt")]
    version = publish(tmp_path / "registry", 1)
    registry = str(tmp_path / "registry")
    for settings in ([], [warm], [warm, "run.steps_share=0.3"], [warm, "run.extend_vocab=true"]):
        others.append(find(tmp_path, *settings, registry=registry).run)
    named = find(tmp_path, f"run.warm_start={version}", registry=registry)
    assert named.run == others[3]  # by the digest, not by the name
    write(tmp_path, "b.txt")
    assert len({run, *others, find(tmp_path).run}) == 8


def test_the_version_that_training_begins_with_is_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the champion is; and so is the code, which may come to other results."""
    write(tmp_path, "a.txt")
    registry = tmp_path / "registry"
    versions = [publish(registry, number) for number in (1, 2)]

    def run(base: str) -> str:
        return find(tmp_path, f"run.warm_start={base}", registry=str(registry)).run

    runs = [run(base) for base in (*versions, "champion")]
    assert runs[1] == runs[2]  # by the digest, not by the name
    assert runs[0] != runs[1]
    monkeypatch.setattr(inputs, "code_version", lambda: "another")
    assert run("champion") not in runs


def test_one_window_another_and_the_first_again(tmp_path: Path) -> None:
    """A, then B warm, then A warm: the third begins with B, and so is another run than the first."""
    registry = tmp_path / "registry"

    def begin(window: str) -> RunInputs:
        return find(tmp_path / window, "run.warm_start=champion", registry=str(registry))

    def end(run: RunInputs, number: int) -> None:
        """Publishes what the run comes to, and makes it the champion."""
        digest = f"c{os.path.basename(run.base)}" if run.base else None
        begun = run.base and {"path": run.base, "checkpoint": digest, "checkpoint_digest": digest}
        publish(registry, number, run=run.run, champion=begun or None, warm_start=begun or None)

    write(tmp_path, "a/1.txt", "b/1.txt")
    runs: list[RunInputs] = []
    for number, window in enumerate("aba", start=1):
        runs.append(begin(window))
        end(runs[-1], number)
        assert begin(window)[4:] == runs[-1][4:]  # each of them, repeated, is the same run
    assert [os.path.basename(run.base) for run in runs] == ["", "1", "2"]
    assert len({run.run for run in runs}) == 3


def test_a_champion_of_another_model_is_no_beginning(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    publish(tmp_path, 1)
    with pytest.raises(InputError, match=r"lm/1 has model\.\w+=\d+, not \d+, so a training can't"):
        find(tmp_path, "run.warm_start=champion", preset="demo", registry=str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("run.steps_share=2", "run.steps_share is 2.0; it must be above 0 and at most 1"),
        ("gate.max_perplexity=-1", "gate.max_perplexity is -1.0; it must be between"),
        ("run.warmstart=x", "settings names an unknown field 'run.warmstart'; did you mean run.warm_start or "),
        ("train.stps=5", "settings names an unknown field 'train.stps'; did you mean train.steps"),
        ("train.steps", "settings 'train.steps' has no '='; write it as train.steps=500"),
        ("train.steps=many", "train.steps is 'many'; it must be a whole number"),
    ],
)  # fmt: skip
def test_settings_are_checked_before_anything_is_looked_up(setting: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        find_inputs("[]", settings=[setting])
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ('["a/*.txt", "b"]', ["a/*.txt", "b"]),
        (" /data/x.txt ", ["/data/x.txt"]),  # one pattern, as a person writes it into the form
    ],
)
def test_patterns_are_read(text: str, patterns: list[str]) -> None:
    assert read_patterns(text) == patterns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "corpus is empty"),
        ("[]", "corpus is empty"),
        ("[a]", "corpus is not a JSON list"),
        ('["a", 1]', "must be a JSON list of names"),
    ],
)
def test_patterns_that_are_none_are_bad_input(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_patterns(text)


def test_a_pattern_without_a_match_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file matches"):
        find(tmp_path)


def test_the_fingerprint_tells_changed_files(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.txt")
    os.utime(tmp_path / "a.txt", ns=(1, 10**18))

    def current(vocab: str = "") -> str:
        return fingerprint(find_files([f"{tmp_path}/*.txt"]), vocab=vocab)

    seen = [current()]
    assert current() == seen[0]
    os.utime(tmp_path / "a.txt", ns=(5 * 10**17, 10**18))  # it was only read
    assert current() == seen[0]
    os.utime(tmp_path / "a.txt", ns=(1, 10**18 + 1))
    seen.append(current())
    (tmp_path / "a.txt").write_text("other words\n")
    os.utime(tmp_path / "a.txt", ns=(1, 10**18 + 1))
    seen.append(current())
    write(tmp_path, "c.txt")
    seen.append(current())
    (tmp_path / "c.txt").rename(tmp_path / "d.txt")
    seen.append(current())
    write(tmp_path, "vocab")
    seen.append(current(str(tmp_path / "vocab")))
    (tmp_path / "b.txt").unlink()
    seen.append(current())
    assert len(set(seen)) == 7
    with pytest.raises(InputError, match="nothing can't be read"):
        current(str(tmp_path / "nothing"))


def test_what_was_found_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "2026-03-01.txt")
    find_inputs(f"{tmp_path}/{{date:%Y-%m-%d}}.txt", window_days=2, times=["2026-03-02T00:00:00Z"])
    pattern = f"{tmp_path}/{{date:%Y-%m-%d}}.txt"
    assert capsys.readouterr().out == (
        f"{pattern}: 1 of 2 dates have no file\n1 files, 11 bytes: {tmp_path}/2026-03-01.txt\n"
    )


def test_of_many_patterns_the_first_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(tmp_path / f"{number}.txt") for number in range(7)]
    write(tmp_path, *(os.path.basename(name) for name in names))
    find_inputs(json.dumps(names))
    said = f"7 files, 77 bytes: {', '.join(names[:5])} and 2 more\n"
    assert capsys.readouterr().out == said


def test_a_run_is_known_by_what_the_store_says_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_s3_server(tmp_path) as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        FileSystems.set_options(PipelineOptions([]))  # and so a new client
        check_run(s3)


def check_run(s3: S3Server) -> None:
    s3.put("2026-03-01/a.txt", b"Some words.\n")
    s3.put("2026-02-27/a.txt", b"Some words.\n")
    pattern = f"s3://{BUCKET}/{{date:%Y-%m-%d}}/*.txt"
    expanded = [f"s3://{BUCKET}/./2026-02-27/*.txt", f"s3://{BUCKET}/./2026-03-01/*.txt"]
    assert expand_dates([pattern], days=4, end=NOON) == expanded
    names = [file.name for file in find_files(expanded)]
    assert names == ["2026-02-27/a.txt", "2026-03-01/a.txt"]
    rooted = find_files(expanded[:1], source_root=f"s3://{BUCKET}")
    assert [file.name for file in rooted] == names[:1]
    plain = [one.replace("/./", "/") for one in expanded]
    assert [f.name for f in find_files(plain, source_root=f"s3://{BUCKET}/")] == names
    with pytest.raises(InputError, match=r"/a\.txt are both named 'a\.txt'; give --source-root"):
        find_files(plain)
    with pytest.raises(InputError, match="lies outside --source-root s3://other;"):
        find_files(plain, source_root="s3://other")
    with pytest.raises(InputError, match="on any day from 2026-02-28 to 2026-02-28"):
        expand_dates([pattern], days=1, end=NOON - datetime.timedelta(days=1))

    def current() -> str:
        return fingerprint(find_files(expanded))

    seen = [current()]
    assert current() == seen[0]
    s3.put("2026-03-01/a.txt", b"Other words.\n")
    seen.append(current())
    s3.put("2026-03-01/b.txt", b"Other words.\n")
    seen.append(current())
    before = find_files(expanded)[-1].modified
    while find_files(expanded)[-1].modified == before:
        s3.put("2026-03-01/b.txt", b"Still words.\n")
    seen.append(current())
    assert len(set(seen)) == 4
    s3.requests()
    found = find_inputs(pattern, window_days=4, times=["2026-03-02T12:00:00Z"])
    assert found.fingerprint == seen[-1]
    assert len(s3.requests()) == 4  # each day is listed once


def test_listing_takes_little_memory_a_file(tmp_path: Path) -> None:
    def peak(files: int) -> int:
        folder = tmp_path / f"{files:05d}"
        folder.mkdir()
        for number in range(files):
            (folder / f"{number:08d}.txt").touch()
        tracemalloc.start()
        try:
            listed = find_files([str(folder)])
            fingerprint(listed)
            save_listing(str(tmp_path / "listing"), listed)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    small, large = peak(500), peak(2500)
    assert (large - small) / 2000 < 750  # and over 1,000 with whole rows and entries


def test_the_fingerprint_is_that_of_all_rows_in_order(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a\n")
    files = [
        InputFile(path=f"/t/{name}", name=name, size=size, split=split, modified=7)
        for name, size, split in (("b", 2, ""), ('"ü', 1, "valid"), ("a", 3, "train"))
    ]
    vocab = ["vocab", str(tmp_path / "words"), 2, (tmp_path / "words").stat().st_mtime_ns]
    rows = [
        ["input", '/t/"ü', 'valid:"ü', 1, 7],
        ["input", "/t/a", "train:a", 3, 7],
        ["input", "/t/b", "b", 2, 7],
    ]
    for given, more in (("", []), (str(tmp_path / "words"), [vocab])):
        wanted = hashlib.sha256(json.dumps([*rows, *more]).encode()).hexdigest()
        assert fingerprint(files, vocab=given) == wanted
    assert fingerprint([]) == hashlib.sha256(b"[]").hexdigest()
