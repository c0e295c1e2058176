"""The hashes of training text: units that don't move, unions in any order, look-ups by rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.data import seen
from model.data.seen import (
    RUN_WORDS,
    Hashes,
    IntArray,
    SeenMasks,
    SeenText,
    cut_units,
    hash_words,
    unite,
)
from model.errors import InputError

GUARANTEE = 2 * RUN_WORDS - 1


def _arrays(records: list[list[str]], before: str = "\n") -> tuple[Hashes, IntArray, Hashes]:
    words = hash_words([word.encode() for record in records for word in record])
    lengths = np.asarray([len(record) for record in records], np.int64)
    return words, lengths, np.repeat(hash_words([before.encode()]), len(records))


def _seen(records: list[list[str]], before: str = "\n") -> SeenText:
    return SeenText(cut_units(*_arrays(records, before), every_run=False).hashes)


def _find(text: SeenText, records: list[list[str]], before: str = "\n") -> SeenMasks:
    return text.find(*_arrays(records, before))


def _line(number: int, size: int = 7) -> list[str]:
    return [f"w{number}-{at}" for at in range(size)] + ["\n"]


def _join(*lines: list[str]) -> list[str]:
    return [word for line in lines for word in line]


def test_lines_are_found_wherever_records_begin() -> None:
    text = _seen([_join(*map(_line, range(4))), _join(*map(_line, range(4, 9)))])
    assert len(text.hashes) == 9
    records = [_line(8), _join(_line(20), _line(3)), _join(_line(20), _line(21)), _line(0, 6)]
    assert _find(text, records).seen.tolist() == [True, True, False, False]
    assert _find(text, records, before="").seen.tolist() == [True, True, False, False]


def test_a_short_line_decides_only_for_a_short_record() -> None:
    text = _seen([_join(_line(0, 3), _line(1, 5), _line(2, 20))])
    records = [
        _line(0, 3),
        _join(_line(0, 3), _line(9, 3)),
        _join(_line(0, 3), _line(9, 4)),
        _join(_line(1, 5), _line(9, 30)),
    ]
    assert _find(text, records).seen.tolist() == [True, True, False, False]


@pytest.mark.parametrize("before", ["", "\n", "inside"])
@pytest.mark.parametrize("size", [33, 40, 400])
def test_a_long_line_is_found_by_any_part_of_it(size: int, before: str) -> None:
    text = _seen([_join(_line(5), _line(0, size), _line(6))])
    whole = _line(0, size)
    for start in range(0, size - GUARANTEE, 7):
        part = whole[start : start + GUARANTEE]
        found = _find(text, [part, _join(part, ["\n"], _line(30))], before="inside").seen
        assert found.tolist() == [True, True], start
    assert _find(text, [whole], before).seen.tolist() == [True]
    assert _find(text, [_line(7, size)], before).seen.tolist() == [False]


def test_text_without_marks_is_found_after_it_shifted() -> None:
    stream = [f"w{at}" for at in range(1000)]
    text = _seen([stream[:500], stream[500:]], before="before")
    for start in range(0, 400, 13):
        moved = [*stream[start : start + GUARANTEE], *(f"new{at}" for at in range(90))]
        assert _find(text, [moved], before="other").seen.tolist() == [True]
    assert _find(text, [[f"new{at}" for at in range(300)]]).seen.tolist() == [False]


def test_text_that_has_shifted_adds_hardly_any_hashes() -> None:
    """So the set of a lineage does not grow with every night's window."""
    stream = [f"w{at}" for at in range(2000)]
    text = _seen([stream], before="before")
    for start in range(1, 2 * RUN_WORDS):
        union = text.union(_seen([stream[start:]], before="before"))
        added = len(union.hashes) - len(text.hashes)
        assert added < RUN_WORDS // 2, start  # of the windows that the new beginning cuts short


def test_repeated_words_and_empty_records() -> None:
    text = _seen([["a"] * 100, [], ["b", "\n", "\n", "\n"]])
    assert len(text.hashes) == 2
    found = _find(text, [["a"] * 60, [], ["b", "\n"], ["\n"], ["c"]])
    assert found.seen.tolist() == [True, False, True, False, False]
    assert found.unclear.tolist() == [False, False, False, True, False]
    nothing = _find(SeenText(), [])
    assert nothing.seen.shape == nothing.unclear.shape == (0,)
    assert not _find(SeenText(), [_line(0)]).seen.any()
    assert not len(_seen([]).hashes)


def test_units_are_the_same_by_one_record_or_many() -> None:
    rng = np.random.default_rng(1)
    records = []
    for _ in range(60):
        words = [str(word) for word in rng.integers(0, 50, rng.integers(0, 90))]
        records.append(["\n" if word in ("3", "7") else word for word in words])
    together = _seen(records)
    alone = unite(_seen([record]) for record in records)
    np.testing.assert_array_equal(together.hashes, alone.hashes)
    assert _find(together, [record for record in records if len(record) > 40]).seen.all()


def test_a_union_is_halved_alike_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MAX_HASHES", 100)
    texts = [_seen([_line(at) for at in range(n, n + 60)]) for n in (0, 30, 200, 500)]
    a, b, c, d = texts
    unions = [
        unite(texts),
        unite(texts[::-1]),
        (a.union(b)).union(c.union(d)),
        b.union(unite(texts)),
    ]
    for union in unions:
        np.testing.assert_array_equal(union.hashes, unions[0].hashes)
        assert union.halvings == unions[0].halvings
    assert 50 <= len(unions[0].hashes) <= 100
    assert unions[0].share == 0.5


@pytest.mark.parametrize("most", [100, 1000])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_union_in_slices_is_that_of_everything_at_once(
    most: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "MAX_HASHES", most)
    monkeypatch.setattr(seen, "_SLICE", size)
    random = np.random.default_rng(4)
    pool = random.integers(0, 1 << 63, 600, np.uint64) << np.uint64(1)
    for one, other in ((0, 0), (0, 30), (250, 1), (60, 90), (500, 400), (90, 2000)):
        sets = [random.choice(pool, count) for count in (one, other)]
        united = SeenText(sets[0]).union(SeenText(sets[1]))
        at_once = SeenText(np.concatenate(sets))
        np.testing.assert_array_equal(united.hashes, at_once.hashes)
        assert united.halvings == at_once.halvings
        assert len(np.unique(united.hashes)) == len(united.hashes) <= most


def test_what_a_sample_cannot_look_up_is_unclear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MAX_HASHES", 100)
    text = _seen([_line(at) for at in range(1000)])
    found = _find(text, [_line(at) for at in range(2000)])
    assert text.halvings == 4
    assert int(found.seen.sum()) == len(text.hashes)
    assert not found.seen[1000:].any()
    assert not (found.seen & found.unclear).any()
    left = ~found.seen & ~found.unclear
    assert not left[:1000].any()
    assert 30 <= left[1000:].sum() <= 100
    long = [_join(*map(_line, range(at, at + 100))) for at in (0, 900, 5000)]
    assert _find(text, long).seen.tolist() == [True, True, False]


def test_a_file_gives_back_the_set(tmp_path: Path) -> None:
    path = str(tmp_path / "seen.npy")
    text = SeenText(_seen([_line(at) for at in range(100)]).hashes, halvings=1)
    info = text.save(path)
    read = SeenText.load(path, **info)
    np.testing.assert_array_equal(read.hashes, text.hashes)
    assert read.halvings == 1
    SeenText().save(path)
    assert len(SeenText.load(path).hashes) == 0
    with pytest.raises(InputError, match="was truncated or changed"):
        SeenText.load(path, **info)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "seen.npy"
    _seen([_line(at) for at in range(10)]).save(str(path))
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    wrong = {"flip": bytes(data), "cut": bytes(data[:-4]), "empty": b"", "text": b"not numbers"}
    path.write_bytes(wrong[damage])
    with pytest.raises(InputError, match="is damaged or of another format"):
        SeenText.load(str(path))


def test_a_file_stays_below_64_megabytes() -> None:
    assert 8 * seen.MAX_HASHES + 1000 < 64_000_000
