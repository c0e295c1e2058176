"""One file, once, whatever links lead to it; and never what charloom made."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from components.preprocess.inputs import listing
from components.preprocess.inputs.find import expand_dates, start_time
from components.preprocess.inputs.listing import find_files
from components.preprocess.sources.files import Found
from model.errors import InputError


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n")


def names_of(*inputs: Path | str, output: str = "") -> list[str]:
    return [file.name for file in find_files([str(one) for one in inputs], output=output)]


def test_links_that_lead_back_up_end(tmp_path: Path) -> None:
    write(tmp_path, "data/b.txt", "data/z/a.txt")
    for number in range(9):  # with each of them, 9 ways at every step
        (tmp_path / f"data/z/up{number}").symlink_to(tmp_path / "data")
    for pattern in ("data", "data/**", "data/**/*.txt", "data/**/**/*.txt", "data/**/*"):
        assert names_of(tmp_path / pattern) == ["b.txt", "z/a.txt"]
    assert names_of(tmp_path / "data/*/up3/z/*.txt") == ["z/up3/z/a.txt"]


def test_of_several_paths_the_one_without_a_link_counts(tmp_path: Path) -> None:
    write(tmp_path, "data/m/a.txt", "data/m/sub/b.txt", "far/c.txt")
    before = names_of(tmp_path / "data")
    (tmp_path / "data/a").symlink_to(tmp_path / "data/m")
    (tmp_path / "data/m/0.txt").symlink_to(tmp_path / "data/m/a.txt")
    (tmp_path / "data/far").symlink_to(tmp_path / "far")
    expected = ["far/c.txt", *before]
    for inputs in (["data"], ["data/**/*.txt"], ["data/**", "data"]):
        assert names_of(*(tmp_path / one for one in inputs)) == expected
    assert names_of(tmp_path / "data/*/*.txt") == ["far/c.txt", "m/a.txt"]
    (tmp_path / "elsewhere").symlink_to(tmp_path / "data")  # the same below another link
    assert names_of(tmp_path / "elsewhere") == expected


def test_of_hard_links_the_smallest_name_counts(tmp_path: Path) -> None:
    write(tmp_path, "data/b.txt", "data/c.txt")
    for name in ("data/d.txt", "data/a.txt", "x.txt"):
        os.link(tmp_path / "data/c.txt", tmp_path / name)
    assert names_of(tmp_path / "data") == ["a.txt", "b.txt"]
    assert names_of(tmp_path / "x.txt", tmp_path / "data") == ["a.txt", "b.txt"]
    assert names_of(tmp_path / "data", tmp_path / "x.txt") == ["a.txt", "b.txt"]


@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "list"])
def test_a_file_in_two_splits_is_refused_by_any_path(tmp_path: Path, kind: str) -> None:
    write(tmp_path, "data/a.txt", "b.txt")
    other = tmp_path / "other"
    if kind == "link":
        other.symlink_to(tmp_path / "data/a.txt")
    elif kind == "hard link":
        os.link(tmp_path / "data/a.txt", other)
    elif kind == "folder":
        other.symlink_to(tmp_path / "data")
    else:
        other.write_text(f"{tmp_path}/data/../data/a.txt\n")
    valid = f"@{other}" if kind == "list" else str(other)
    same = {"folder": f"{other}/a.txt", "list": f"{tmp_path}/data/../data/a.txt"}.get(kind, other)
    with pytest.raises(InputError) as caught:
        find_files(train=[f"{tmp_path}/b.txt", f"{tmp_path}/data/*"], valid=[valid])
    shown = "" if kind == "list" else f" ({same} is the same file)"
    assert str(caught.value) == (
        f"{tmp_path}/data/a.txt is named for --train and for --valid{shown}; choose one"
    )


def test_a_file_of_a_store_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Found(f"s3://b/data/{name}.txt", 5, 1) for name in "ac"]
    monkeypatch.setattr(listing, "_match_remote", lambda pattern: found[: 1 + ("*" in pattern)])
    one, both = "s3://b/data/a.txt", "s3://b/data/*"
    assert names_of(one, both, "s3://b/./data/a.txt") == ["a.txt", "c.txt"]
    message = f"{one} is named for --train and for --test; choose one"
    with pytest.raises(InputError, match=re.escape(message)):
        find_files(train=[both], test=[one])


def make_outputs(folder: Path) -> None:
    """Makes what looks like text, records, a version, and what an ended process left."""
    write(folder, "a.txt", "records/vocab.txt", "records/COMPLETED", "records/sub/b.txt")
    write(folder, "lm/1/MANIFEST.json", "lm/1/saved_model.pb", "lm/1/c.txt")
    write(folder, "records.tmp-41/vocab.txt", "out.tmp-7/scratch/d.txt", "text/MANIFEST.json")


def test_what_charloom_made_is_not_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_outputs(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "records")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/half.txt").write_text("half\n")
    output = str(tmp_path / "out")
    for pattern in ("", "**", "*", "**/*"):
        found = names_of(f"{tmp_path}/{pattern}", output=output)
        assert found == ["a.txt", "text/MANIFEST.json"]
        said = capsys.readouterr().out
        assert said.startswith("folders that charloom made are not read: ")
        assert said.endswith(", 6 in all\n")
    assert names_of(tmp_path / "**/*.txt", output=output) == ["a.txt"]
    assert names_of(tmp_path / "*/*.json") == ["text/MANIFEST.json"]
    assert names_of(tmp_path / "a.txt", output=f"{tmp_path}/a") == ["a.txt"]
    assert "out/half.txt" in names_of(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "folder", "why"),
    [
        ("records", "records", "holds COMPLETED"),
        ("records/vocab.txt", "records", "holds COMPLETED"),
        ("records/s*/*", "records", "holds COMPLETED"),
        ("link/**", "records", "holds COMPLETED"),
        ("lm/1", "lm/1", "holds MANIFEST.json"),
        ("out", "out", "is what the records are written to"),
        ("out.tmp-7/scratch/*", "out.tmp-7/scratch", "is what the records are written to"),
    ],
)
def test_what_charloom_made_is_refused_by_name(
    tmp_path: Path, pattern: str, folder: str, why: str
) -> None:
    make_outputs(tmp_path)
    write(tmp_path, "out/x.txt")
    (tmp_path / "link").symlink_to(tmp_path / "records")
    message = (
        f"is output of charloom, not text ({tmp_path}/{folder} {why}); name the text, or move it "
        "elsewhere"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        names_of(tmp_path / "a.txt", tmp_path / pattern, output=str(tmp_path / "out"))


def test_a_day_with_output_alone_is_missing(tmp_path: Path) -> None:
    write(tmp_path, "2026-03-01/records/COMPLETED", "2026-03-01/records/a.txt", "2026-02-28/a.txt")
    end = start_time(["2026-03-02T00:00:00Z"])
    expected = [f"{tmp_path}/./2026-02-28"]
    assert expand_dates([f"{tmp_path}/{{date:%Y-%m-%d}}"], days=2, end=end) == expected
