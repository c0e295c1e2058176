"""A report as the gate reads it: what is typed, and what stands in the place of a bad part."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from gate_reports import changed_pair, make_pair, make_report, with_reference

from components.evaluate.report import ComparedVersion, Problems, Report, Score, SliceSums


def test_a_good_report() -> None:
    assert Report.from_dict(make_report(model=math.e, unigram=4.0, words=1)) == Report(
        known_format=True,
        test=Score(-1.0, 1, math.e),
        unknown_words=0,
        left_out=0,
        seen_unknown="",
        baselines=dict.fromkeys(("unigram", "bigram"), Score(-math.log(4.0), 1, 4.0)),
        champion=None,
        reference=None,
    )


@pytest.mark.parametrize("report", [None, [1], "report", {}])
def test_no_report_is_full_of_problems(report: object) -> None:
    read = Report.from_dict(report)
    assert not read.known_format
    assert read.seen_unknown == "left_out.unknown is not a string"
    parts = [read.test, read.left_out, *read.baselines.values(), read.champion, read.reference]
    assert all(isinstance(part, Problems) for part in parts)
    assert read.left_out == Problems(("splits.test.left_out.words is missing",))
    assert read.champion == Problems(("champion is missing; it must be a champion or null",))


def champion_of(report: Any) -> ComparedVersion:
    champion = Report.from_dict(report).champion
    assert isinstance(champion, ComparedVersion)
    return champion


def test_a_champion_has_sources_and_slices() -> None:
    champion = champion_of(make_pair(0.02, count=10, length=100))
    assert (champion.path, champion.refused) == ("registry/lm/3", "")
    assert not isinstance(champion.pair, Problems)
    assert champion.pair.names == tuple(f"doc-{at}" for at in range(10))
    assert champion.pair.words.tolist() == [100.0] * 10
    assert champion.pair.differences.sum() == pytest.approx(0.02 * 1_000)
    assert isinstance(champion.slices, SliceSums)
    assert champion.slices.words.shape == champion.slices.differences.shape == (6, 10)
    np.testing.assert_allclose(champion.slices.differences.sum(0), champion.pair.differences)


def test_problems_stand_where_they_are() -> None:
    champion = champion_of(changed_pair("champion.slices.1-5.words", [1]))
    assert not isinstance(champion.pair, Problems)
    assert champion.slices == Problems(("champion.slices.1-5.words must be 40 finite numbers",))
    champion = champion_of(changed_pair("champion.test.documents.1.words", -1))
    problems = ("champion.test.documents[1]: words is -1; it must be at least 0",)
    assert champion.pair == champion.slices == Problems(problems)
    assert isinstance(Report.from_dict(changed_pair("champion.test", None)).test, Score)


def test_a_reference_that_is_the_champion_has_its_sources() -> None:
    report = with_reference(make_pair(0.02))
    other = Report.from_dict(report).reference
    report["reference"] = {"path": "registry/lm/3", "refused": None, "is_champion": True}
    read = Report.from_dict(report)
    assert isinstance(other, ComparedVersion)
    assert isinstance(read.reference, ComparedVersion)
    assert isinstance(read.champion, ComparedVersion)
    assert not isinstance(read.champion.pair, Problems)
    assert not isinstance(read.reference.pair, Problems)
    np.testing.assert_equal(read.reference.pair, read.champion.pair)
    assert not isinstance(other.pair, Problems)
    assert other.pair.differences.tolist() != read.reference.pair.differences.tolist()


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Report.from_dict(make_report()).left_out = 1  # type: ignore[misc]
