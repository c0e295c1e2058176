from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.preprocess.passes.work_units import MOST_FILES, Part, Unit, make_groups, make_units
from components.preprocess.sources.blocks import BLOCK_BYTES
from components.preprocess.sources.types import InputFile
from model.config import DataConfig

MEBI = 1 << 20


def files(*sizes: int, ending: str = ".txt") -> list[InputFile]:
    return [InputFile(f"/{n}{ending}", f"{n}{ending}", size) for n, size in enumerate(sizes)]


def test_small_files_share_a_unit_and_a_large_one_is_cut() -> None:
    small, other, large, last = files(3 * MEBI, 6 * MEBI, 2 * BLOCK_BYTES + 1, 5)
    parts = [unit.parts for unit in make_units([small, other, large, last], DataConfig())]
    assert parts == [
        (Part(small), Part(other)),
        (Part(large, 0, 1),),
        (Part(large, 1, 2),),
        (Part(large, 2, 3),),
        (Part(last),),
    ]


def test_a_file_is_whole_where_bad_ones_are_left_out() -> None:
    (large,) = files(3 * BLOCK_BYTES)
    (unit,) = make_units([large], DataConfig(on_bad_text="skip"))
    assert unit.parts == (Part(large),)


def test_a_unit_in_the_scratch_folder_is_what_was_put_there(tmp_path: Path) -> None:
    plain, large = files(3 * MEBI, 2 * BLOCK_BYTES + 1)
    odd = InputFile(
        "s3://b/\udce9\n\u20ac", "\udce9\n", 7, "valid", 1_700_000_000_123_456_789, True
    )
    unit = Unit(12, (Part(plain), Part(large, 2, 3), Part(odd)))
    unit.save(str(tmp_path))
    loaded = Unit.load(str(tmp_path), 12)
    assert loaded == unit
    assert loaded.parts[2].file.from_listing  # which equality does not look at
    assert loaded.size == 3 * MEBI + 1 + 7


def test_files_without_a_byte_do_not_all_share_a_unit() -> None:
    empty = InputFile("/e", "e", 0)
    units = make_units(itertools.repeat(empty, MOST_FILES + 3), DataConfig())
    assert [len(unit.parts) for unit in units] == [MOST_FILES, 3]


def test_units_are_made_one_at_a_time() -> None:
    (large,) = files(3 * BLOCK_BYTES)

    def endless() -> Iterator[InputFile]:
        while True:
            yield large

    units = itertools.islice(make_units(endless(), DataConfig()), 5)
    assert [(unit.index, unit.parts[0].first) for unit in units] == [*enumerate([0, 1, 2, 0, 1])]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([5], [[0]]),
        ([0, 0], [[0, 1]]),
        ([8] * 8, [[0, 1, 2, 3, 4, 5, 6, 7]]),  # just as large as one may be
        ([8] * 9, [[0, 1, 2, 3], [4, 5, 6, 7, 8]]),
        ([8] * 24, [list(range(begin, begin + 6)) for begin in range(0, 24, 6)]),  # 3 would do
        ([200, 1, 1], [[0], [1, 2]]),
        ([1, 1, 200], [[0, 1], [2]]),
        ([150, 1, 1, 60, 1], [[0], [1, 2], [3, 4]]),  # the first of four would be empty
    ],
)
def test_groups_are_even_and_a_power_of_two(sizes: list[int], groups: list[list[int]]) -> None:
    assert make_groups(sizes, 64) == groups


def test_every_unit_is_in_one_group_in_order() -> None:
    sizes = [(7 * index * index) % 101 for index in range(200)]
    groups = make_groups(sizes, 300)
    assert [unit for group in groups for unit in group] == list(range(200))
    totals = [sum(sizes[unit] for unit in group) for group in groups]
    assert len(groups) == 64
    assert max(totals) <= 300
