"""The gate against the best version so far, and how sources are counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gate_reports import make_pair, sums, with_champion, with_reference

from components.evaluate.gate import decide
from components.evaluate.judging import BETTER, NOT_WORSE, WORSE
from components.evaluate.report import Report
from model.config import GateConfig

DRIFTS: dict[str, tuple[dict[str, Any], dict[str, Any], bool, str]] = {
    "as good as the best": (
        with_reference(make_pair(0.0, apart=0.001)),
        {},
        True,
        "not worse than the best version so far (1) by more than 2.00%: perplexity +0.00% "
        "(99.95% interval",
    ),
    "not worse than the champion, worse than the best": (
        with_reference(make_pair(0.0, apart=0.001), 0.021),
        {},
        False,
        "may be worse than the best version so far (1) by more than 2.00%: perplexity +2.12%",
    ),
    "the same, the margin wider": (
        with_reference(make_pair(0.0, apart=0.001), 0.021),
        {"max_drift": 0.03},
        True,
        "not worse than the best version so far (1) by more than 3.00%",
    ),
    "perhaps within the margin": (
        with_reference(make_pair(0.0, apart=0.001), 0.019, apart=0.02),
        {},
        False,
        "may be worse than the best version so far (1) by more than 2.00%",
    ),
    "the champion is the best": (
        make_pair(0.02) | {"reference": {"path": "registry/lm/3", "refused": None, "is_champion": True}},
        {},
        True,
        "not worse than the best version so far (3) by more than 2.00%: perplexity -1.98%",
    ),
    "the champion is said to be the best": (
        make_pair(0.02) | {"reference": {"path": "registry/lm/2", "refused": None, "is_champion": True}},
        {},
        False,
        "reference.is_champion is true, but the champion is another version",
    ),
    "it is gone": (
        make_pair(0.02) | {"reference": {"path": "my models/lm/2", "refused": "my models/lm/2 is gone"}},
        {},
        False,
        "the best version so far (2) can't be compared: my models/lm/2 is gone; "
        "charloom registry rebase 'my models/lm' VERSION sets another reference",
    ),
    "it has no sums": (
        make_pair(0.02)
        | {"reference": {"path": "lm/2", "refused": None, "is_champion": False, "test": None}},
        {},
        False,
        "reference.same_vocabulary is not true or false",
    ),
    "four files": (
        with_reference(make_pair(0.02, count=4)),
        {},
        False,
        "it can't be decided whether the model is worse than the reference: the test text comes "
        "from 4 files, which count as 4.0 of equal size, and 5 are needed (gate.min_units)",
    ),
    "it is a text": (
        make_pair(0.02) | {"reference": "lm/2"},
        {},
        False,
        "reference is a str; it must be a reference or null",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("report", "limits", "passed", "reason"), DRIFTS.values(), ids=DRIFTS)
def test_drift(report: Any, limits: dict[str, Any], passed: bool, reason: str) -> None:
    verdict = decide(Report.from_dict(report), limits=GateConfig(**limits))
    assert any(one.startswith(reason) for one in verdict.reasons), verdict.reasons
    assert verdict.passed == passed


def test_relation_to_the_reference() -> None:
    for better, expected in ((-0.02, BETTER), (0.0, NOT_WORSE), (0.04, WORSE)):
        report = with_reference(make_pair(0.0, apart=0.001), better)
        verdict = decide(Report.from_dict(report), limits=GateConfig()).to_dict()
        assert verdict["reference"]["relation"] == expected
        assert verdict["comparison"]["relation"] == NOT_WORSE


def test_pieces_of_a_file_are_one_source() -> None:
    """Twenty pieces of each of five files, alike within a file, say as much as five."""
    files, pieces = 5, 20
    random = np.random.default_rng(3)
    gaps = np.repeat(0.01 + 0.01 * random.standard_normal(files), pieces)
    lengths = [1_000] * files * pieces
    ours, theirs = sums(-4.0 + gaps, lengths), sums(np.full(len(gaps), -4.0), lengths)
    for test in (ours, theirs):
        for at, one in enumerate(test["documents"]):
            one["source"] = f"{at // pieces}.txt:{at % pieces}"
    compared = decide(Report.from_dict(with_champion(ours, theirs)), limits=GateConfig()).comparison
    assert compared is not None
    assert (compared.unit, compared.units, compared.words) == ("source", files, 100_000)
    by_file = gaps[::pieces]
    half = 2.7764451 * by_file.std(ddof=1) / math.sqrt(files)
    assert compared.low == pytest.approx(by_file.mean() - half)
    assert compared.high == pytest.approx(by_file.mean() + half)
    assert [one["source"] for one in compared.sources["better"]] == [
        f"{at}.txt" for at in np.argsort(-by_file) if by_file[at] > 0
    ]


def test_many_sources_are_grouped() -> None:
    report = make_pair(0.02, count=2_500, length=50)
    ours, theirs = report["splits"]["test"], report["champion"]["test"]
    groups = np.arange(2_500) * 1_000 // 2_500
    for one in report["champion"]["slices"].values():
        for field in ("words", "difference"):
            one[field] = np.bincount(groups, one[field]).tolist()
    compared = decide(
        Report.from_dict(with_champion(ours, theirs) | report), limits=GateConfig()
    ).comparison
    assert compared is not None
    assert (compared.units, compared.relation) == (2_500, BETTER)
