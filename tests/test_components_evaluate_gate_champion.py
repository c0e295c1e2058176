"""The gate where there is a champion: a table of reports, verdicts and reasons."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from gate_reports import (
    changed_pair,
    make_pair,
    noise,
    one_slice_worse,
    other_vocabulary,
    sums,
    with_champion,
)

from components.evaluate.gate import decide
from components.evaluate.judging import BETTER, NOT_WORSE, UNCLEAR, WORSE
from components.evaluate.report import Report
from model.config import GateConfig

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], bool, str]] = {
    # name: report, fields of GateConfig, passed, how a reason begins
    "better": (make_pair(0.02), {}, True, "better than the champion: perplexity -1.98%"),
    "better, as required": (
        make_pair(0.02),
        {"require_improvement": True},
        True,
        "better than the champion: perplexity -1.98%",
    ),
    "the same model": (
        make_pair(0.0, apart=0.0),
        {},
        True,
        "not worse than the champion by more than 0.50%: perplexity +0.00% "
        "(95% interval +0.00% to +0.00%, over 40 files)",
    ),
    "the same model, improvement required": (
        make_pair(0.0, apart=0.0),
        {"require_improvement": True},
        False,
        "not significantly better than the champion (gate.require_improvement): perplexity +0.00%",
    ),
    "a little worse, surely within the tolerance": (
        make_pair(-0.002, apart=0.001),
        {},
        True,
        "not worse than the champion by more than 0.50%: perplexity +0.20%",
    ),
    "a little worse, no tolerance": (
        make_pair(-0.002, apart=0.001),
        {"tolerance": 0.0},
        False,
        "worse than the champion: perplexity +0.20%",
    ),
    "perhaps better, perhaps worse": (
        make_pair(0.001, apart=0.2),
        {},
        False,
        "may be worse than the champion by more than 0.50%: perplexity -0.10%",
    ),
    "perhaps better, wide tolerance": (
        make_pair(0.001, apart=0.2),
        {"tolerance": 0.2},
        True,
        "not worse than the champion by more than 20.00%",
    ),
    "worse": (make_pair(-0.02), {}, False, "worse than the champion: perplexity +2.02%"),
    "better, a slice worse": (
        one_slice_worse(0.06),
        {},
        False,
        "perplexity of the slice 1-5 is +6.00% against the champion's (99% interval +6.00% to "
        "+6.00%, 6,000 words in 40 files); its lower end must not exceed +5.00% "
        "(gate.max_slice_loss)",
    ),
    "better, a slice worse within the limit": (
        one_slice_worse(0.04),
        {},
        True,
        "no slice of the words is significantly worse than the champion by more than 5.0%",
    ),
    "a slice worse, the limit higher": (
        one_slice_worse(0.06),
        {"max_slice_loss": 0.07},
        True,
        "no slice of the words is significantly worse than the champion by more than 7.0%",
    ),
    "a slice worse, by chance": (
        one_slice_worse(0.06, apart=0.2),
        {},
        True,
        "no slice of the words is significantly worse than the champion by more than 5.0%",
    ),
    "a slice of few words": (one_slice_worse(3.0, words=4), {}, True, "better than the champion"),
    "a slice of enough words": (
        one_slice_worse(3.0, words=5),
        {},
        False,
        "perplexity of the slice 1-5 is +300.00% against the champion's (99% interval +300.00% to "
        "+300.00%, 200 words in 40 files)",
    ),
    "words that the champion alone knows, a loss": (
        one_slice_worse(1.0, "champion only", words=10),
        {},
        False,
        "perplexity of the slice known to one is +100.00% against the champion's",
    ),
    "the same, the limit higher": (
        one_slice_worse(1.0, "champion only", words=10),
        {"max_slice_loss": 1.5},
        True,
        "no slice of the words is significantly worse than the champion by more than 150.0%",
    ),
    "half of the perplexity by answering <unk>": (
        other_vocabulary(),
        {"max_slice_loss": 1e6},
        False,
        "worse than the champion: perplexity +22.14%",
    ),
    "the same, slices too": (
        other_vocabulary(),
        {},
        False,
        "perplexity of the slice known to neither is +22.14% against the champion's",
    ),
    "another vocabulary, better": (
        make_pair(0.7, paid=-0.6, same_vocabulary=False),
        {},
        True,
        "better than the champion: perplexity -9.52%",
    ),
    "one file": (
        make_pair(0.02, name="one.txt:{}"),
        {},
        False,
        "it can't be decided whether the model is worse than the champion: the test text comes "
        "from 1 file, which count as 1.0 of equal size, and 5 are needed (gate.min_units), because "
        "pieces of one file are correlated; split the text into more files, one for each article, "
        "chapter or day, and prepare it again",
    ),
    "four files": (
        with_champion(sums(np.full(4, -4.0), [100] * 4), sums(np.full(4, -4.1), [100] * 4)),
        {},
        False,
        "it can't be decided whether the model is worse than the champion: the test text comes "
        "from 4 files, which count as 4.0",
    ),
    "five files": (
        with_champion(sums(np.full(5, -4.0), [100] * 5), sums(np.full(5, -4.1), [100] * 5)),
        {},
        True,
        "better than the champion: perplexity -9.52% (95% interval -9.52% to -9.52%, over 5 files)",
    ),
    "five files, more needed": (
        with_champion(sums(np.full(5, -4.0), [100] * 5), sums(np.full(5, -4.1), [100] * 5)),
        {"min_units": 6},
        False,
        "it can't be decided whether the model is worse than the champion: the test text comes "
        "from 5 files, which count as 5.0 of equal size, and 6 are needed",
    ),
    "one long file among short ones": (
        with_champion(
            sums(np.full(40, -4.0), [100_000] + [10] * 39),
            sums(np.full(40, -4.1), [100_000] + [10] * 39),
        ),
        {},
        False,
        "it can't be decided whether the model is worse than the champion: the test text comes "
        "from 40 files, which count as 1.0",
    ),
    "documents without words": (
        with_champion(
            sums(np.full(30, -4.0), [100] * 4 + [0] * 26),
            sums(np.full(30, -4.1), [100] * 4 + [0] * 26),
        ),
        {},
        False,
        "it can't be decided whether the model is worse than the champion: the test text comes "
        "from 4 files, which count as 4.0",
    ),
    "no champion": ({**make_pair(), "champion": None}, {}, True, "there is no champion"),
    "champion is missing": (
        {key: value for key, value in make_pair().items() if key != "champion"},
        {},
        False,
        "champion is missing; it must be a champion or null",
    ),
    "champion is a text": (
        {**make_pair(), "champion": "v3"},
        {},
        False,
        "champion is a str; it must be a champion or null",
    ),
    "champion is empty": (
        {**make_pair(), "champion": {}},
        {},
        False,
        "the champion can't be compared: champion.refused is not a string",
    ),
    "champion can't be compared with": (
        changed_pair("champion.refused", "it splits words in another way"),
        {},
        False,
        "the champion can't be compared: it splits words in another way",
    ),
    "champion refused without a reason": (
        changed_pair("champion.refused", ""),
        {},
        False,
        "the champion can't be compared: champion.refused is not a string",
    ),
    "vocabulary unknown": (
        changed_pair("champion.same_vocabulary", None),
        {},
        False,
        "champion.same_vocabulary is not true or false",
    ),
    "no test": (
        changed_pair("champion.test", ...),
        {},
        False,
        "champion.test.documents is missing; it must be a list of documents",
    ),
    "no documents": (
        changed_pair("champion.test.documents", []),
        {},
        False,
        "champion.test.documents is empty; it must be a list of documents",
    ),
    "a document without a source": (
        changed_pair("champion.test.documents.2.source", ...),
        {},
        False,
        "champion.test.documents[2]: source is missing",
    ),
    "a document is NaN": (
        changed_pair("champion.test.documents.3.log_likelihood", math.nan),
        {},
        False,
        "champion.test.documents[3]: log_likelihood is nan; it must be finite",
    ),
    "a document is null": (
        changed_pair("splits.test.documents.3", None),
        {},
        False,
        "splits.test.documents[3]: source is missing",
    ),
    "a document's probability is above 1": (
        changed_pair("splits.test.documents.3.log_likelihood", 5.0),
        {},
        False,
        "splits.test.documents[3]: log_likelihood is 5; it must not be above 0",
    ),
    "a document without spellings": (
        changed_pair("champion.test.documents.0.spelling_log_likelihood", ...),
        {},
        False,
        "champion.test.documents[0]: spelling_log_likelihood is missing",
    ),
    "documents do not add up": (
        changed_pair("splits.test.documents.0.log_likelihood", -1.0),
        {},
        False,
        "splits.test.documents adds up to",
    ),
    "words do not add up": (
        changed_pair("champion.test.documents.0.words", 1),
        {},
        False,
        "champion.test.documents has 39,001 words, not 40,000",
    ),
    "other documents": (
        changed_pair("champion.test.documents.0.source", "another"),
        {},
        False,
        "splits.test.documents and champion.test.documents list different documents",
    ),
    "no slices": (
        changed_pair("champion.slices", ...),
        {},
        False,
        "champion.slices must be the slices known to neither, challenger only, champion only, 1-5",
    ),
    "other slices": (
        changed_pair("champion.slices.>100", ...),
        {},
        False,
        "champion.slices must be the slices",
    ),
    "a slice of other words": (
        changed_pair("champion.slices.1-5.words.3", 5),
        {},
        False,
        "champion.slices don't have the words of the sources",
    ),
    "a slice of other differences": (
        changed_pair("champion.slices.1-5.difference.3", 5.0),
        {},
        False,
        "champion.slices don't add up to the differences of the sources",
    ),
    "a slice of too few sources": (
        changed_pair("champion.slices.1-5.difference", [0.0]),
        {},
        False,
        "champion.slices.1-5.difference must be 40 finite numbers",
    ),
    "a slice is infinite": (
        changed_pair("champion.slices.1-5.difference.3", -math.inf),
        {},
        False,
        "champion.slices.1-5.difference must be 40 finite numbers",
    ),
    "everything is empty": (
        with_champion({**make_pair()["splits"]["test"], "documents": []}, {}),
        {},
        False,
        "splits.test.documents is empty; it must be a list of documents",
    ),
    "better than the champion, above the limit": (
        make_pair(0.02),
        {"max_perplexity": 50.0},
        False,
        "test perplexity 53.52 is above the limit of 50.00 (gate.max_perplexity)",
    ),
}


@pytest.mark.parametrize(("report", "limits", "passed", "reason"), CASES.values(), ids=CASES)
def test_verdict(report: Any, limits: dict[str, Any], passed: bool, reason: str) -> None:
    before = copy.deepcopy(report)
    verdict = decide(Report.from_dict(report), limits=GateConfig(**limits))
    assert any(one.startswith(reason) for one in verdict.reasons), verdict.reasons
    assert verdict.passed == passed
    np.testing.assert_equal(report, before)
    json.dumps(verdict.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("report", "relation"),
    [
        (make_pair(0.02), BETTER),
        (make_pair(0.0, apart=0.001), NOT_WORSE),
        (make_pair(0.0, apart=0.2), UNCLEAR),
        (make_pair(-0.02), WORSE),
    ],
)
def test_relation(report: Any, relation: str) -> None:
    compared = decide(Report.from_dict(report), limits=GateConfig()).comparison
    assert compared is not None
    assert compared.relation == relation
    assert compared.low <= compared.difference <= compared.high


def test_comparison_has_what_the_page_shows() -> None:
    report = make_pair(0.01, apart=0.05)
    compared = decide(Report.from_dict(report), limits=GateConfig()).to_dict()["comparison"]
    assert (compared["unit"], compared["units"], compared["words"]) == ("source", 40, 40_000)
    assert compared["effective_units"] == pytest.approx(40.0)
    assert compared["difference"] == pytest.approx(0.01)
    assert compared["perplexity_change"] == pytest.approx(math.exp(-0.01) - 1)
    assert compared["perplexity_change_low"] == pytest.approx(math.exp(-compared["high"]) - 1)
    assert compared["perplexity_change_high"] == pytest.approx(math.exp(-compared["low"]) - 1)
    expected = 0.01 + noise(0.05)
    worst, best = compared["sources"]["worse"], compared["sources"]["better"]
    assert (len(worst), len(best)) == (10, 10)
    assert worst[0]["source"] == f"doc-{expected.argmin()}"
    assert worst[0]["difference"] == pytest.approx(expected.min())
    assert best[0]["source"] == f"doc-{expected.argmax()}"
    assert best[0]["difference"] == pytest.approx(expected.max())
    assert [(one["name"], one["words"], one["judged"]) for one in compared["slices"]] == [
        ("known to neither", 2_000, True),
        ("known to one", 0, True),
        ("challenger only", 0, False),
        ("champion only", 0, False),
        ("1-5", 6_000, True),
        ("6-100", 12_000, True),
        (">100", 20_000, True),
    ]
    one = compared["slices"][4]
    assert one["change"] == pytest.approx(math.exp(-0.01) - 1)
    assert one["low"] < one["change"] < one["high"]
    assert (one["lost"], one["sources"]) == (False, 40)
    assert [compared["slices"][1][name] for name in ("change", "low", "high")] == [None] * 3
    assert compared["slice_confidence"] == pytest.approx(0.99)


def test_same_report_same_interval() -> None:
    first, second = (
        decide(Report.from_dict(make_pair(0.001, apart=0.1)), limits=GateConfig()) for _ in range(2)
    )
    assert first == second
