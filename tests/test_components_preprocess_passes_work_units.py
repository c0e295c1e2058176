from __future__ import annotations

import pytest

from components.preprocess.passes.work_units import Part, Unit, make_groups, make_units
from components.preprocess.sources.blocks import BLOCK_BYTES
from components.preprocess.sources.types import InputFile
from model.config import DataConfig

MEBI = 1 << 20


def files(*sizes: int, ending: str = ".txt") -> list[InputFile]:
    return [InputFile(f"/{n}{ending}", f"{n}{ending}", size) for n, size in enumerate(sizes)]


def units_of(sizes: list[int]) -> list[Unit]:
    return [Unit(index, (Part(file),)) for index, file in enumerate(files(*sizes))]


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
    assert make_groups(units_of(sizes), 64) == groups


def test_every_unit_is_in_one_group_in_order() -> None:
    sizes = [(7 * index * index) % 101 for index in range(200)]
    groups = make_groups(units_of(sizes), 300)
    assert [unit for group in groups for unit in group] == list(range(200))
    totals = [sum(sizes[unit] for unit in group) for group in groups]
    assert len(groups) == 64
    assert max(totals) <= 300
