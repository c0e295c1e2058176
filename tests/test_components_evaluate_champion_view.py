"""What page and Markdown say of the model against the champion."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from test_components_evaluate_page import HOSTILE, REPORT, changed, parse, tables

from components.evaluate.champion_view import ViewRow, card_address, read_champion_view
from components.evaluate.markdown import render_markdown
from components.evaluate.page import render_page
from model.text.display import markdown

COMPARISON: dict[str, Any] = {
    "unit": "source",
    "units": 58,
    "words": 43603,
    "confidence": 0.95,
    "relation": "better",
    "perplexity_change": -0.29,
    "perplexity_change_low": -0.37,
    "perplexity_change_high": -0.2,
    "slices": [
        {"name": "1-5", "words": 1487, "change": 0.034, "low": -0.01, "high": 0.08},
        {"name": "champion only", "words": 7, "change": 0.5, "low": None, "high": None},
        {"name": "x", "change": None},
    ],
    "sources": {
        "better": [{"source": "a.txt", "words": 300, "difference": 0.6931471805599453}],
        "worse": [{"source": "b.txt", "words": 2, "difference": -1000.0}],
    },
}
CHAMPION: dict[str, Any] = {
    "version": 3,
    "path": "/registry/lm/3",
    "same_vocabulary": True,
    "refused": None,
    "words": {
        "better": [{"word": "Applause", "count": 34, "difference": 13.862943611198906}],
        "worse": [{"word": "the", "count": 2154, "difference": -0.6931471805599453}],
    },
}


def report(**champion: Any) -> dict[str, Any]:
    made = copy.deepcopy(REPORT)
    made["champion"] = {**copy.deepcopy(CHAMPION), **champion}
    made["verdict"]["comparison"] = copy.deepcopy(COMPARISON)
    return made


def test_figures_become_texts() -> None:
    view = read_champion_view(report())
    assert view is not None
    assert view.champion == "version 3"
    assert view.summary == (
        "Perplexity \u221229.00\u00a0% against the champion, version 3 (95\u00a0% interval "
        "\u221237.00\u00a0% to \u221220.00\u00a0%, over 58 files): significantly better."
    )
    assert view.slices == [
        ViewRow(
            "known to both, seen up to 5 times",
            "1,487",
            "+3.40\u00a0% (\u22121.00\u00a0% to +8.00\u00a0%)",
        ),
        ViewRow("\u2013 only to the champion", "7", "+50.00\u00a0%"),
        ViewRow("x", "not available", "not available"),
    ]
    assert view.sources == {
        "better": [ViewRow("a.txt", "300", "\u221250.00\u00a0%")],
        "worse": [ViewRow("b.txt", "2", "not available")],
    }
    assert view.words == {
        "better": [ViewRow("Applause", "34", "\u221220.0")],
        "worse": [ViewRow("the", "2,154", "+1.0")],
    }


def test_other_vocabularies_are_told() -> None:
    view = read_champion_view(report(same_vocabulary=False))
    assert view is not None
    assert "over 58 files; as their vocabularies differ, unknown words pay" in view.summary


def test_no_champion_no_part() -> None:
    assert read_champion_view(REPORT) is None
    assert "Against the champion" not in render_page(REPORT)
    assert "Against the champion" not in render_markdown(REPORT)


@pytest.mark.parametrize(
    ("champion", "comparison", "summary"),
    [
        ({"refused": "it is damaged"}, None, "the champion, version 3: it is damaged"),
        ({}, None, "the champion, version 3; the reasons are above."),
        ({"version": None}, None, "the champion, /registry/lm/3; the reasons are above."),
    ],
)
def test_what_could_not_be_compared(
    champion: dict[str, Any], comparison: object, summary: str
) -> None:
    made = report(**champion)
    made["verdict"]["comparison"] = comparison
    view = read_champion_view(made)
    assert view is not None
    assert view.summary.endswith(summary)
    assert summary in render_page(made).replace("&#39;", "'")


@pytest.mark.parametrize(
    ("reference", "compared", "text"),
    [
        (None, None, ""),
        (
            {"version": 1, "refused": None},
            {**COMPARISON, "confidence": 0.9995, "relation": "not worse", "units": 1},
            "Perplexity \u221229.00\u00a0% against the best version so far, version 1 (99.95\u00a0% "
            "interval \u221237.00\u00a0% to \u221220.00\u00a0%, over 1 file): "
            "not worse by more than is allowed.",
        ),
        (
            {"version": None, "path": "/r/lm/1", "refused": "/r/lm/1 is gone"},
            None,
            "It could not be compared with the best version so far, /r/lm/1: /r/lm/1 is gone",
        ),
        (
            {"version": 1, "refused": None},
            None,
            "It could not be compared with the best version so far, version 1; "
            "the reasons are above.",
        ),
    ],
)
def test_the_best_version_so_far(reference: object, compared: object, text: str) -> None:
    made = report()
    made["reference"], made["verdict"]["reference"] = reference, compared
    view = read_champion_view(made)
    assert view is not None
    assert view.reference == text
    assert text in parse(render_page(made)).text
    assert markdown(text) in render_markdown(made)


@pytest.mark.parametrize("bad", [None, "x", float("nan"), 10**400, True, [], {}])
def test_figures_that_are_none_break_nothing(bad: object) -> None:
    made = report(version=bad, words=bad)
    made["verdict"]["comparison"] = dict.fromkeys(COMPARISON, bad)
    assert read_champion_view(made) is not None
    render_page(made)
    render_markdown(made)


def test_both_pages_show_it() -> None:
    made = report()
    root = parse(render_page(made))
    shown = render_markdown(made)
    for text in ("Against the champion", "Applause", "significantly better", "58 files"):
        assert text in root.text
        assert text in shown
    assert shown.startswith("# PASSED\n\n- ")
    assert "| slice | count | perplexity |\n| --- | --- | --- |\n| known to both, " in shown
    assert "| Test perplexity | " in shown
    made["verdict"]["status"] = "perhaps"
    assert render_markdown(made).startswith("# REJECTED\n")


def test_hostile_text_stays_text() -> None:
    made = report(words={"better": [{"word": HOSTILE, "count": 1, "difference": 1.0}]})
    made["verdict"]["comparison"]["sources"]["better"][0]["source"] = HOSTILE
    made["verdict"]["comparison"]["slices"][0]["name"] = HOSTILE
    page = render_page(made)
    root = parse(page)
    assert not list(root.all("script", "img", "iframe", "object", "embed", "form", "base"))
    assert root.text.count(HOSTILE) == 3
    made["verdict"]["reasons"] = [HOSTILE]
    shown = render_markdown(made)
    assert "<" not in shown
    assert HOSTILE not in shown


def test_the_data_card_is_linked() -> None:
    made = report()
    assert card_address(made) is None
    made["dataset"]["path"] = "/data/my records"
    assert card_address(made) == (
        "/data/my records/data_card.html",
        "file:///data/my%20records/data_card.html",
    )
    links = [a.attributes["href"] for a in parse(render_page(made)).all("a")]
    assert links == ["file:///data/my%20records/data_card.html"]
    assert "Data card: " in render_markdown(made)
    for path in ("relative", 7, None, "/\ud800"):
        made["dataset"]["path"] = path
        assert card_address(made) is None
        render_page(made)


def test_pieces_of_a_file_are_one_row() -> None:
    documents = [
        {"source": f"{i % 2}.txt:{i}", "words": 2, "log_likelihood": -2.0 * i} for i in range(4)
    ]
    page = parse(render_page(changed("splits.test.documents", documents)))
    assert "Hardest of 2" in page.text
    (shown,) = tables(page)[2:-2]
    assert [row[:2] for row in shown[1:]] == [["1.txt", "4"], ["0.txt", "4"]]
