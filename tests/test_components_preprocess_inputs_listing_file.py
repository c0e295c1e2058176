"""One listing a run: its file, and a corpus that changes between the task that lists and the next."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from dated_files import NOON, write
from volume import keep_first

from components.preprocess.inputs import listing
from components.preprocess.inputs.find import RunInputs, find_inputs
from components.preprocess.inputs.listing import find_files
from components.preprocess.inputs.listing_file import load_listing, save_listing
from components.preprocess.inputs.walking import Walker
from components.preprocess.main import run
from components.preprocess.sources.types import InputFile, ListedFile
from model.config import DataConfig
from model.data.records import Dataset
from model.errors import InputError

CONFIG = DataConfig(min_count=1, valid_fraction=0.0, test_fraction=0.0, sentence_marks=False)
OLD = 10**18
"""A time long ago, in nanoseconds."""


def test_a_listing_is_read_as_it_was_written(tmp_path: Path) -> None:
    odd = ["a\nb.txt", 'quote".txt', "ü\u2028.txt", os.fsdecode(b"\xff.txt"), "e\x85nd.txt"]
    files = [InputFile(f"/x/{name}", name, size, "", OLD + size) for size, name in enumerate(odd)]
    files.append(InputFile("s3://b/c.txt", "c.txt", 1 << 40, "valid", 0))
    folder = str(tmp_path / "made" / "listing")
    save_listing(folder, files)
    assert load_listing(folder) == files
    header, first, *_ = (tmp_path / "made" / "listing" / "listing.jsonl").read_text().splitlines()
    assert json.loads(header) == {"format_version": 1, "files": 6}
    assert json.loads(first) == ["/x/a\nb.txt", "a\nb.txt", 0, "", OLD]
    save_listing(folder, files[1:])  # as a retried task does
    assert load_listing(folder) == files[1:]
    assert sorted(os.listdir(folder)) == ["COMPLETED", "listing.jsonl"]


@pytest.mark.parametrize(
    ("lines", "detail"),
    [
        (None, "No such file or directory"),
        ([], "it is damaged"),
        (['{"format_version": 1, "files": 1}', "{"], "it is damaged"),
        (['{"format_version": 1, "files": 1}', '["a"]'], "it is damaged"),
        (['{"format_version": 1, "files": 1}'], "its header is .*'files': 1}, not .*'files': 0}"),
        (['{"format_version": 2, "files": 0}'], "its header is {'format_version': 2, "),
    ],
)
def test_a_listing_that_is_not_whole_is_refused(
    tmp_path: Path, lines: list[str] | None, detail: str
) -> None:
    if lines is not None:
        (tmp_path / "listing.jsonl").write_text("".join(f"{line}\n" for line in lines))
    message = (
        rf"^the listing {tmp_path}/listing\.jsonl can't be used \({detail}.*; start a new run$"
    )
    with pytest.raises(InputError, match=message):
        load_listing(str(tmp_path))


def list_corpus(folder: Path) -> tuple[RunInputs, str]:
    """Does what the first task does; returns what it found, and where its listing is."""
    place = str(folder / "listing")
    return find_inputs(f"{folder}/text", preset="tiny", listing=place), place


def prepare(folder: Path) -> dict[str, int]:
    """Does what the second task does; returns the words of each file."""
    records = str(folder / "records")
    run(listing=str(folder / "listing"), records=records, config=CONFIG, beam_workers=1)
    words: dict[str, int] = {}
    with Dataset.open(records) as dataset:
        for index, length in enumerate(dataset.lengths("train").tolist()):
            name = dataset.read("train", index).source.partition(":")[0]
            words[name] = words.get(name, 0) + length
    return words


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("grown", "it has 16 bytes, not 11"),
        ("replaced", "it was written again"),
        ("gone", "it is gone"),
    ],
)
def test_a_file_that_changes_between_the_tasks_is_refused(
    tmp_path: Path, change: str, detail: str
) -> None:
    write(tmp_path / "text", "a.txt", "b.txt")
    path = tmp_path / "text" / "b.txt"
    os.utime(path, ns=(OLD, OLD))
    list_corpus(tmp_path)
    if change == "grown":
        with path.open("a") as file:
            file.write("more\n")
        os.utime(path, ns=(OLD, OLD))
    elif change == "replaced":
        (tmp_path / "new").write_text("newer text\n")
        os.replace(tmp_path / "new", path)
    else:
        path.unlink()
    for _ in range(2):  # a retry sees the same
        with pytest.raises(InputError) as caught:
            prepare(tmp_path)
        assert str(caught.value) == (
            f"{path} has changed since it was listed ({detail}); start a new run, which lists the "
            "text anew"
        )
        assert caught.value.exit_code == 2
        assert not (tmp_path / "records").exists()
    _, place = list_corpus(tmp_path)  # as the new run does
    assert len(prepare(tmp_path)) == len(load_listing(place)) == (1 if change == "gone" else 2)


def test_a_file_that_changes_before_a_retry_is_refused(tmp_path: Path) -> None:
    """The records are there, and the retried task reads the text to compare them with it."""
    write(tmp_path / "text", "a.txt")
    list_corpus(tmp_path)
    assert prepare(tmp_path) == {"a.txt": 2}
    (tmp_path / "text" / "a.txt").write_text("other words\n")
    with pytest.raises(InputError, match=r"it has 12 bytes, not 11\); start a new run"):
        prepare(tmp_path)


def test_a_file_that_comes_after_the_listing_waits_for_the_next_run(tmp_path: Path) -> None:
    write(tmp_path / "text", "a.txt", "sub/b.txt")
    before, place = list_corpus(tmp_path)
    write(tmp_path / "text", "sub/c.txt")
    assert prepare(tmp_path) == {"a.txt": 2, "sub/b.txt": 2}
    (tmp_path / "records").rename(tmp_path / "former")
    after, _ = list_corpus(tmp_path)  # a retry of the first task lists anew, too
    assert [file.name for file in load_listing(place)] == ["a.txt", "sub/b.txt", "sub/c.txt"]
    assert after.fingerprint != before.fingerprint
    assert prepare(tmp_path).keys() == {"a.txt", "sub/b.txt", "sub/c.txt"}


def test_a_run_lists_its_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["2026-02-28/a.txt", "2026-03-01/a.txt", "2026-03-01/b.txt.gz"]
    write(tmp_path, *names[:2])
    (tmp_path / names[2]).write_bytes(b"")
    looked_at: list[str] = []
    look_at = listing._look_at

    def counted(path: str) -> ListedFile:
        looked_at.append(os.path.relpath(path, tmp_path))
        return look_at(path)

    monkeypatch.setattr(listing, "_look_at", counted)
    place = str(tmp_path / "listing")
    pattern = f"{tmp_path}/{{date:%Y-%m-%d}}"
    times = [NOON.isoformat()]
    find_inputs(pattern, window_days=2, times=times, preset="tiny", listing=place)
    assert sorted(looked_at) == names  # those of two days, by patterns that were tried first
    monkeypatch.setattr(Walker, "files", lambda *_: pytest.fail("a second listing"))
    monkeypatch.setattr(listing, "_match_remote", lambda _: pytest.fail("a second listing"))
    config = DataConfig(**{**vars(CONFIG), "on_bad_text": "skip"})
    info = run(listing=place, records=str(tmp_path / "r"), config=config, beam_workers=1)
    assert info["input"]["files"] == 3
    assert sorted(looked_at) == names


def test_a_listing_is_not_text(tmp_path: Path) -> None:
    """Not even where the corpus is the whole volume."""
    write(tmp_path, "text/a.txt")
    for run_id in "12":
        find_inputs(str(tmp_path), preset="tiny", listing=f"{tmp_path}/runs/{run_id}/listing")
    assert [file.name for file in find_files([str(tmp_path)])] == ["text/a.txt"]
    assert [file.name for file in load_listing(f"{tmp_path}/runs/2/listing")] == ["text/a.txt"]


@pytest.mark.parametrize("count", keep_first([10_000, 100_000]))
def test_many_files_are_listed_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def match(pattern: str) -> list[ListedFile]:
        folder = pattern.removesuffix("*")
        return [ListedFile(f"{folder}{number:06}.txt", number, OLD) for number in range(count)]

    monkeypatch.setattr(listing, "_match_remote", match)
    tracemalloc.start()
    try:
        find_inputs("s3://bucket/some/folder/*", preset="tiny", listing=str(tmp_path))
        files = load_listing(str(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(files) == count
    name = f"{count - 1:06}.txt"
    assert files[-1] == InputFile(f"s3://bucket/some/folder/{name}", name, count - 1, "", OLD)
    assert peak < count * 2000  # bytes, of the 1 GiB that the task has
    assert (tmp_path / "listing.jsonl").stat().st_size < count * 100


def test_a_listing_that_can_not_be_written(tmp_path: Path) -> None:
    write(tmp_path, "taken")
    folder = f"{tmp_path}/taken/listing"
    with pytest.raises(InputError) as caught:
        save_listing(folder, [])
    assert str(caught.value) == (
        f"the listing {folder} can't be written (Not a directory); make room, or make the folder "
        "writable, and start a new run"
    )
