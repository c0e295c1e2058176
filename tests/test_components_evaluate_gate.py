from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from gate_reports import make_report, score

from components.evaluate.gate import PASSED, REJECTED, Verdict, decide
from components.evaluate.report import Report
from components.evaluate.report_fields import look_up
from components.figures import format_figure
from model.config import GateConfig

LIMITS = GateConfig(min_test_words=1, max_perplexity=200.0, beat=("unigram",))


def changed(path: str, value: Any, **sizes: Any) -> dict[str, Any]:
    """Returns a good report with one value replaced, or removed for `...`."""
    report = make_report(**sizes)
    *folders, name = path.split(".")
    parent: Any = report
    for folder in folders:
        parent = parent[folder]
    if value is ...:
        del parent[name]
    else:
        parent[name] = value
    return report


TEST, UNIGRAM = "splits.test", "baseline.unigram"
NO_CHAMPION = "there is no champion to compare with"
CHAMPION_MISSING = "champion is missing; it must be a champion or null"
OK = (
    "test perplexity 100.00 is at most the limit of 200.00",
    "0.00% of the test words are unknown, at most the limit of 50.00%",
    "test perplexity 100.00 is not above the unigram baseline's 400.00 on the same 1,000 words",
    NO_CHAMPION,
)
ALL_MISSING = (
    "splits.test.words is missing",
    "splits.test.log_likelihood is missing",
    "splits.test.perplexity is missing",
    "splits.test.unknown_words is missing",
    "baseline.unigram.words is missing",
    "baseline.unigram.log_likelihood is missing",
    "baseline.unigram.perplexity is missing",
)
EMPTY_SUM = {"log_likelihood": 0.0, "words": 1000, "perplexity": 1.0, "unknown_words": 0}
REFERENCE_MISSING = "reference is missing; it must be a reference or null"
NO_FORMAT = "format_version is not 4, the only format this gate reads"

PASSES = {
    "good": (make_report(), OK),
    "one word": (
        make_report(words=1),
        (*OK[:2], OK[2].replace("1,000 words", "1 words"), NO_CHAMPION),
    ),
    "as good as the unigram baseline": (
        make_report(unigram=100.0),
        (
            *OK[:2],
            "test perplexity 100.00 is not above the unigram baseline's 100.00 on the same 1,000 words",
            NO_CHAMPION,
        ),
    ),
    "whole numbers as sums": (
        {
            "format_version": 4,
            "champion": None,
            "reference": None,
            "splits": {
                "test": {
                    "log_likelihood": -2,
                    "words": 2,
                    "perplexity": math.e,
                    "unknown_words": 1,
                    "left_out": {"words": 0, "unknown": None},
                }
            },
            "baseline": {"unigram": {"log_likelihood": -4, "words": 2, "perplexity": math.e**2}},
        },
        (
            "test perplexity 2.72 is at most the limit of 200.00",
            "50.00% of the test words are unknown, at most the limit of 50.00%",
            "test perplexity 2.72 is not above the unigram baseline's 7.39 on the same 2 words",
            NO_CHAMPION,
        ),
    ),
    "perplexity rounded within 1e-6": (changed(f"{TEST}.perplexity", 100.00009), OK),
    "unknown fields": ({**make_report(), "later": [math.nan]}, OK),
}

REJECTIONS = {
    "above the limit": (
        make_report(model=250.0),
        ("test perplexity 250.00 is above the limit of 200.00 (gate.max_perplexity)",),
    ),
    "above the limit by little": (
        make_report(model=200.0001),
        ("test perplexity 200.0001 is above the limit of 200.0000 (gate.max_perplexity)",),
    ),
    "worse than the unigram baseline": (
        make_report(model=150.0, unigram=149.0),
        ("test perplexity 150.00 is above the unigram baseline's 149.00 on the same 1,000 words",),
    ),
    "worse than the unigram baseline by little": (
        make_report(model=150.0, unigram=149.9999),
        (
            "test perplexity 150.0000 is above the unigram baseline's 149.9999 on the same 1,000 words",
        ),
    ),
    "knows no word": (
        changed(f"{TEST}.unknown_words", 1000, model=1.0001),
        (
            "100.00% of the test words are unknown, above the limit of 50.00% "
            "(gate.max_unknown_rate); raise data.vocab_size, lower data.min_count or provide more text",
        ),
    ),
    "knows too few words by one": (
        changed(f"{TEST}.unknown_words", 501),
        (
            "50.10% of the test words are unknown, above the limit of 50.00% "
            "(gate.max_unknown_rate); raise data.vocab_size, lower data.min_count or provide more text",
        ),
    ),
    "unknown words are a float": (
        changed(f"{TEST}.unknown_words", 0.0),
        ("splits.test.unknown_words is a float; it must be a whole number",),
    ),
    "fewer than no word is unknown": (
        changed(f"{TEST}.unknown_words", -1),
        ("splits.test.unknown_words is -1; it must be at least 0",),
    ),
    "fails both rules": (
        make_report(model=2500.0, unigram=400.0),
        (
            "test perplexity 2,500.00 is above the limit of 200.00 (gate.max_perplexity)",
            "test perplexity 2,500.00 is above the unigram baseline's 400.00 on the same 1,000 words",
        ),
    ),
    "fails a rule and lacks the baseline": (
        changed("baseline", ..., model=250.0),
        (
            "test perplexity 250.00 is above the limit of 200.00 (gate.max_perplexity)",
            "baseline.unigram.words is missing",
            "baseline.unigram.log_likelihood is missing",
            "baseline.unigram.perplexity is missing",
        ),
    ),
    "empty": ({}, (NO_FORMAT, *ALL_MISSING, CHAMPION_MISSING, REFERENCE_MISSING)),
    "no mapping": ([1, 2], (NO_FORMAT, *ALL_MISSING, CHAMPION_MISSING, REFERENCE_MISSING)),
    "nothing": (None, (NO_FORMAT, *ALL_MISSING, CHAMPION_MISSING, REFERENCE_MISSING)),
    "no format version": (changed("format_version", ...), (NO_FORMAT,)),
    "format version of another form": (changed("format_version", 3), (NO_FORMAT,)),
    "format version is true": (changed("format_version", True), (NO_FORMAT,)),
    "no splits": (changed("splits", ...), ALL_MISSING[:4]),
    "splits are a list": (changed("splits", [score(100.0)]), ALL_MISSING[:4]),
    "test split is null": (changed(TEST, None), ALL_MISSING[:4]),
    "no baseline": (changed(UNIGRAM, ...), ALL_MISSING[4:]),
    "no words": (changed(f"{TEST}.words", ...), ("splits.test.words is missing",)),
    "zero words": (
        changed(f"{TEST}.words", 0),
        ("splits.test.words is 0; it must be at least 1",),
    ),
    "negative words": (
        changed(f"{TEST}.words", -1000),
        ("splits.test.words is -1,000; it must be at least 1",),
    ),
    "words are true": (
        changed(f"{TEST}.words", True),
        ("splits.test.words is a bool; it must be a whole number",),
    ),
    "words are a float": (
        changed(f"{TEST}.words", 1000.0),
        ("splits.test.words is a float; it must be a whole number",),
    ),
    "words are a text": (
        changed(f"{TEST}.words", "1000"),
        ("splits.test.words is a str; it must be a whole number",),
    ),
    "words beyond counting": (
        changed(f"{TEST}.words", 10**6000),
        ("splits.test.words is too large",),
    ),
    "log-likelihood is null": (
        changed(f"{TEST}.log_likelihood", None),
        ("splits.test.log_likelihood is a NoneType; it must be a number",),
    ),
    "log-likelihood is a text": (
        changed(f"{TEST}.log_likelihood", "-4605.17"),
        ("splits.test.log_likelihood is a str; it must be a number",),
    ),
    "log-likelihood is false": (
        changed(f"{TEST}.log_likelihood", False),
        ("splits.test.log_likelihood is a bool; it must be a number",),
    ),
    "log-likelihood is NaN": (
        changed(f"{TEST}.log_likelihood", math.nan),
        ("splits.test.log_likelihood is nan; it must be finite",),
    ),
    "log-likelihood is minus infinity": (
        changed(f"{TEST}.log_likelihood", -math.inf),
        ("splits.test.log_likelihood is -inf; it must be finite",),
    ),
    "log-likelihood is positive": (
        changed(f"{TEST}.log_likelihood", 4605.5),
        ("splits.test.log_likelihood is 4605.5; it must be below 0",),
    ),
    "log-likelihood is an empty sum": (
        {
            **make_report(),
            "splits": {"test": EMPTY_SUM},
        },
        ("splits.test.log_likelihood is 0; it must be below 0",),
    ),
    "log-likelihood beyond exp": (
        {
            **make_report(),
            "splits": {"test": EMPTY_SUM | {"log_likelihood": -1e6, "perplexity": 1e300}},
        },
        ("splits.test.log_likelihood is -1e+06 over 1,000 words, too large",),
    ),
    "perplexity is missing": (
        changed(f"{TEST}.perplexity", ...),
        ("splits.test.perplexity is missing",),
    ),
    "perplexity is NaN": (
        changed(f"{TEST}.perplexity", math.nan),
        ("splits.test.perplexity is nan; it must be finite",),
    ),
    "perplexity is infinite": (
        changed(f"{TEST}.perplexity", math.inf),
        ("splits.test.perplexity is inf; it must be finite",),
    ),
    "perplexity beyond a float": (
        changed(f"{TEST}.perplexity", 10**400),
        ("splits.test.perplexity is inf; it must be finite",),
    ),
    "perplexity is better than its sums": (
        changed(f"{TEST}.perplexity", 50.0),
        ("splits.test.perplexity is 50.00, but its sums give 100.00",),
    ),
    "perplexity is a little better than its sums": (
        changed(f"{TEST}.perplexity", 99.9998),
        ("splits.test.perplexity is 99.9998, but its sums give 100.0000",),
    ),
    "words of the sums are not those of the perplexity": (
        changed(f"{TEST}.words", 2000),
        ("splits.test.perplexity is 100.00, but its sums give 10.00",),
    ),
    "baseline is NaN": (
        changed(f"{UNIGRAM}.log_likelihood", math.nan),
        ("baseline.unigram.log_likelihood is nan; it must be finite",),
    ),
    "baseline's perplexity is infinite": (
        changed(f"{UNIGRAM}.perplexity", math.inf),
        ("baseline.unigram.perplexity is inf; it must be finite",),
    ),
    "baseline's perplexity is not of its sums": (
        changed(f"{UNIGRAM}.perplexity", 800.0),
        ("baseline.unigram.perplexity is 800.00, but its sums give 400.00",),
    ),
    "baseline over fewer words": (
        changed(UNIGRAM, score(400.0, words=999)),
        (
            "the unigram baseline was scored on 999 words and the model on 1,000; "
            "they must be the same",
        ),
    ),
    "baseline over more words, model above the limit": (
        changed(UNIGRAM, score(400.0, words=2000), model=300.0),
        (
            "test perplexity 300.00 is above the limit of 200.00 (gate.max_perplexity)",
            "the unigram baseline was scored on 2,000 words and the model on 1,000; "
            "they must be the same",
        ),
    ),
    "everything NaN": (
        {
            "format_version": 4,
            "champion": None,
            "reference": None,
            "splits": {"test": {**dict.fromkeys(score(2.0), math.nan), "unknown_words": 0}},
            "baseline": {"unigram": dict.fromkeys(score(2.0), math.nan)},
        },
        tuple(
            f"{path}.{reason}"
            for path in (TEST, UNIGRAM)
            for reason in (
                "words is a float; it must be a whole number",
                "log_likelihood is nan; it must be finite",
                "perplexity is nan; it must be finite",
            )
        ),
    ),
}


@pytest.mark.parametrize(("report", "reasons"), PASSES.values(), ids=PASSES)
def test_passes(report: Any, reasons: tuple[str, ...]) -> None:
    assert decide(Report.from_dict(report), limits=LIMITS) == Verdict(PASSED, reasons)


@pytest.mark.parametrize(("report", "reasons"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects_with_all_reasons(report: Any, reasons: tuple[str, ...]) -> None:
    verdict = decide(Report.from_dict(report), limits=LIMITS)
    assert verdict == Verdict(REJECTED, reasons)
    assert not verdict.passed


def test_limit_itself_passes() -> None:
    report = make_report(model=150.0)
    exact = report["splits"]["test"]["perplexity"]
    assert decide(Report.from_dict(report), limits=GateConfig(max_perplexity=exact)).passed
    below = math.nextafter(exact, 0.0)
    assert not decide(Report.from_dict(report), limits=GateConfig(max_perplexity=below)).passed


def test_limit_of_one_rejects_every_model() -> None:
    verdict = decide(
        Report.from_dict(make_report(model=1.0000001)), limits=GateConfig(max_perplexity=1.0)
    )
    assert verdict.reasons == (
        "test perplexity 1.0000001 is above the limit of 1.0000000 (gate.max_perplexity)",
    )


def test_leaves_the_report_alone() -> None:
    report = make_report()
    before = copy.deepcopy(report)
    decide(Report.from_dict(report), limits=GateConfig())
    assert report == before


LEFT_OUT = {
    "enough is left": (
        900,
        None,
        ("measured on 1,000 test words that no model has seen (900 seen ones were left out)",),
    ),
    "too few are left": (
        900,
        None,
        (
            "only 1,000 test words that no model has seen (900 seen ones were left out); 1,001 are "
            "needed (gate.min_test_words); use more or newer test text",
        ),
    ),
    "unknown": (0, "no file", ("it is unknown which test text the model has seen: no file",)),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_says_what_is_left_out(case: str) -> None:
    words, unknown, reasons = LEFT_OUT[case]
    least = 1_001 if case == "too few are left" else 1_000
    report = changed(f"{TEST}.left_out", {"words": words, "unknown": unknown})
    verdict = decide(Report.from_dict(report), limits=GateConfig(min_test_words=least))
    assert verdict.passed == (case == "enough is left")
    assert verdict.reasons[: len(reasons)] == reasons


def test_nothing_left_is_rejected_with_the_reason() -> None:
    sums = {"log_likelihood": 0.0, "words": 0, "perplexity": None}
    report = changed(TEST, {**sums, "left_out": {"words": 50, "unknown": None}})
    verdict = decide(Report.from_dict(report), limits=GateConfig())
    assert verdict.status == REJECTED
    assert (
        "only 0 test words that no model has seen (50 seen ones were left out); 100 are needed "
        "(gate.min_test_words); use more or newer test text"
    ) in verdict.reasons


@pytest.mark.parametrize("value", [..., None, True, "1", [], {}, {"words": 0}, {"unknown": None}])
def test_rejects_without_what_was_left_out(value: object) -> None:
    assert not decide(
        Report.from_dict(changed(f"{TEST}.left_out", value)), limits=GateConfig()
    ).passed


def test_removing_any_field_rejects() -> None:
    paths: list[str] = [f"{path}.{name}" for path in (TEST, UNIGRAM) for name in score(100.0)]
    for path in ["format_version", "champion", "reference", *paths]:
        for value in (..., None, True, "1", [], {}, math.nan, math.inf, -math.inf):
            if value is None and path in ("champion", "reference"):
                continue
            assert not decide(Report.from_dict(changed(path, value)), limits=GateConfig()).passed, (
                path,
                value,
            )


def test_verdict_as_json_values() -> None:
    assert Verdict(PASSED, ("a", "b")).to_dict() == {
        "status": "PASSED",
        "reasons": ["a", "b"],
        "comparison": None,
        "reference": None,
    }
    assert Verdict(PASSED, ()).passed
    assert not Verdict("passed", ()).passed


def test_looks_up_dotted_paths() -> None:
    assert look_up({"a": {"b": 0}}, "a.b") == 0
    assert look_up({"a": {"b": 0}}, "a.c", missing=7) == 7
    assert look_up({"a": 1}, "a.b") is None
    assert look_up(None, "a") is None


def test_formats_figures() -> None:
    assert format_figure(1234.567) == "1,234.57"
    assert format_figure(1.0, 4) == "1.0000"
    assert format_figure(1.23456e12) == "1.235e+12"
