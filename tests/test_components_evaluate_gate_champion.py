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
    few_words_of_a_slice,
    make_pair,
    noise,
    one_slice_worse,
    other_vocabulary,
    sums,
    with_champion,
)

from components.evaluate.comparison import BETTER, NOT_WORSE, UNCLEAR, WORSE
from components.evaluate.gate import decide
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
        "(95% interval +0.00% to +0.00%, over 40 documents)",
    ),
    "the same model, improvement required": (
        make_pair(0.0, apart=0.0),
        {"require_improvement": True},
        False,
        "not surely better than the champion, which is required: perplexity +0.00%",
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
        "perplexity of the slice 1-5 (6,000 words) is +6.00% beside the champion's; at most +5.00%",
    ),
    "better, a slice worse within the limit": (
        one_slice_worse(0.04),
        {},
        True,
        "no slice of the words is worse than the champion by more than 5.0%",
    ),
    "a slice worse, the limit higher": (
        one_slice_worse(0.06),
        {"max_slice_loss": 0.07},
        True,
        "no slice of the words is worse than the champion by more than 7.0%",
    ),
    "a slice of few words": (few_words_of_a_slice(), {}, True, "better than the champion"),
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
        "perplexity of the slice unknown (2,000 words) is",
    ),
    "another vocabulary, better": (
        make_pair(0.7, paid=-0.6, same_vocabulary=False),
        {},
        True,
        "better than the champion: perplexity -9.52%",
    ),
    "one document": (
        with_champion(sums(np.array([-4.0]), [500]), sums(np.array([-4.1]), [500])),
        {},
        False,
        "too few documents to compare with the champion: 1, and 1 blocks of 1,000 words, which "
        "say as much as 1.0 of equal length; 20 are needed (gate.min_units)",
    ),
    "nineteen documents": (
        with_champion(sums(np.full(19, -4.0), [100] * 19), sums(np.full(19, -4.1), [100] * 19)),
        {},
        False,
        "too few documents to compare with the champion: 19",
    ),
    "nineteen documents, fewer needed": (
        with_champion(sums(np.full(19, -4.0), [100] * 19), sums(np.full(19, -4.1), [100] * 19)),
        {"min_units": 10},
        True,
        "better than the champion: perplexity -9.52% (95% interval -9.52% to -9.52%, over 19",
    ),
    "one long document among short ones": (
        with_champion(
            sums(np.full(40, -4.0), [100_000] + [10] * 39),
            sums(np.full(40, -4.1), [100_000] + [10] * 39),
        ),
        {},
        False,
        "too few documents to compare with the champion: 40",
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
        "the champion can't be compared with: champion.refused is no text",
    ),
    "champion can't be compared with": (
        changed_pair("champion.refused", "it splits words in another way"),
        {},
        False,
        "the champion can't be compared with: it splits words in another way",
    ),
    "champion refused without a reason": (
        changed_pair("champion.refused", ""),
        {},
        False,
        "the champion can't be compared with: champion.refused is no text",
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
    "no blocks": (
        changed_pair("splits.test.blocks", ...),
        {},
        False,
        "splits.test.blocks.words is missing; it must be a list",
    ),
    "a block too few": (
        changed_pair("champion.test.blocks.words", [1000] * 39),
        {},
        False,
        "champion.test.blocks has columns of different lengths",
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
        "splits.test.documents[3]: words is missing",
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
        "splits.test.documents and champion.test.documents are of other documents",
    ),
    "no slices": (
        changed_pair("champion.test.slices", ...),
        {},
        False,
        "champion and challenger must have slices of the test words",
    ),
    "other slices": (
        changed_pair("champion.test.slices.>100", ...),
        {},
        False,
        "champion and challenger have different slices of the test words",
    ),
    "a slice of other words": (
        changed_pair("champion.test.slices.1-5.words", 5),
        {},
        False,
        "slice 1-5: it has 6,000 words, and 5 of the champion",
    ),
    "a slice is infinite": (
        changed_pair("splits.test.slices.1-5.log_likelihood", -math.inf),
        {},
        False,
        "slice 1-5: log_likelihood is -inf; it must be finite",
    ),
    "everything is empty": (
        with_champion({**make_pair()["splits"]["test"], "documents": [], "blocks": {}}, {}),
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
    verdict = decide(report, limits=GateConfig(**limits))
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
    compared = decide(report, limits=GateConfig()).comparison
    assert compared is not None
    assert compared.relation == relation
    assert compared.low <= compared.difference <= compared.high


def test_comparison_has_what_the_page_shows() -> None:
    report = make_pair(0.01, apart=0.05)
    compared = decide(report, limits=GateConfig()).to_dict()["comparison"]
    assert (compared["unit"], compared["units"], compared["words"]) == ("document", 40, 40_000)
    assert compared["difference"] == pytest.approx(0.01)
    assert compared["perplexity_change"] == pytest.approx(math.exp(-0.01) - 1)
    assert compared["perplexity_change_low"] == pytest.approx(math.exp(-compared["high"]) - 1)
    assert compared["perplexity_change_high"] == pytest.approx(math.exp(-compared["low"]) - 1)
    expected = 0.01 + noise(0.05)
    worst, best = compared["documents"]["worse"], compared["documents"]["better"]
    assert (len(worst), len(best)) == (10, 10)
    assert worst[0]["source"] == f"doc-{expected.argmin()}"
    assert worst[0]["difference"] == pytest.approx(expected.min())
    assert best[0]["source"] == f"doc-{expected.argmax()}"
    assert best[0]["difference"] == pytest.approx(expected.max())
    assert [one["name"] for one in compared["slices"]] == ["unknown", "1-5", "6-100", ">100"]
    assert compared["slices"][1]["change"] == pytest.approx(math.exp(-0.01) - 1)


@pytest.mark.parametrize(
    ("name", "unit"),
    [("doc-{}", "document"), ("one.txt:{}", "document"), ("{}.txt:0", "document")],
)
def test_documents_are_drawn(name: str, unit: str) -> None:
    compared = decide(make_pair(name=name), limits=GateConfig()).comparison
    assert compared is not None
    assert (compared.unit, compared.units) == (unit, 40)


def test_files_are_drawn_where_there_are_enough() -> None:
    report = make_pair()
    for test in (report["splits"]["test"], report["champion"]["test"]):
        for at, document in enumerate(test["documents"]):
            document["source"] = f"{at // 2}.txt:{at % 2}"
    compared = decide(report, limits=GateConfig()).comparison
    assert compared is not None
    assert (compared.unit, compared.units, compared.words) == ("file", 20, 40_000)


def test_blocks_are_drawn_of_one_long_document() -> None:
    report = make_pair()
    for test in (report["splits"]["test"], report["champion"]["test"]):
        fields = ("words", "log_likelihood", "spelling_log_likelihood")
        whole = {name: math.fsum(one[name] for one in test["documents"]) for name in fields}
        test["documents"] = [{"source": "a.txt:0", **whole, "words": 40_000}]
    compared = decide(report, limits=GateConfig()).comparison
    assert compared is not None
    assert (compared.unit, compared.units, compared.words) == ("block", 40, 40_000)


def test_same_report_same_interval() -> None:
    first, second = (decide(make_pair(0.001, apart=0.1), limits=GateConfig()) for _ in range(2))
    assert first == second
