"""Charts of word counts and lengths; those of perplexity are tested with their pages."""

from __future__ import annotations

import re

import pytest

from components.charts import draw_lengths, draw_ranks, find_percent_ticks, find_ranks, find_shares


def texts(drawing: object) -> list[str]:
    return re.findall(r">([^<>]+)</text>", str(drawing))


def points(drawing: object, group: str) -> list[tuple[float, float]]:
    """Returns the points of the first path of a group of an SVG."""
    found = re.search(rf'<g id="{group}">\s*<path d="([^"]*)"', str(drawing))
    assert found
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", found[1])]


def bars(drawing: object) -> list[tuple[str, float, float, float]]:
    """Returns colour, left, width and height of each bar."""
    found = re.findall(
        r'<path d="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) [\d.]+\s+L [\d.]+ ([\d.]+)\s+L [\d.]+ [\d.]+\s+z'
        r'[^>]*style="fill: (#\w+)"',
        str(drawing),
    )
    return [
        (colour, float(left), float(right) - float(left), float(bottom) - float(top))
        for left, bottom, right, top, colour in found
    ]


def test_the_curve_goes_through_the_ends_of_each_count() -> None:
    # Ranks 1 and 2 occur 100 times, rank 3 10 times, ranks 4 to 10 once.
    histogram = [[1, 7], [100, 2], [10, 1]]
    assert find_ranks(histogram) == [(1, 100), (2, 100), (3, 10), (4, 1), (10, 1)]
    drawing = draw_ranks(histogram, border=3)
    places = points(drawing, "ranks-curve")
    left, top, right, bottom = *places[0], *places[-1]
    # Both scales end at 10 and 100, so a power of ten is the whole width and half the height.
    shares = [((x - left) / (right - left), (bottom - y) / (bottom - top)) for x, y in places]
    expected = [(0, 1), (0.30103, 1), (0.477121, 0.5), (0.60206, 0), (1, 0)]
    assert shares == [pytest.approx(share, abs=1e-4) for share in expected]
    assert texts(drawing) == [
        *("1", "10", "rank of the word"),
        *("1", "10", "100"),
        "\u00a0vocabulary: 3\u00a0",
    ]
    label = (
        "Rank-frequency curve, logarithmic: the most frequent of 10 distinct training words "
        "occurs 100 times."
    )
    assert f'role="img" aria-label="{label}"' in str(drawing)


@pytest.mark.parametrize("border", [None, 0, -3, 10, 11])
def test_a_border_is_drawn_only_where_there_is_one(border: int | None) -> None:
    assert "vocabulary" not in str(draw_ranks([[1, 10]], border=border))


def test_a_curve_of_one_word_or_none() -> None:
    assert find_ranks([[1, 1]]) == [(1, 1)]
    assert '<g id="ranks-curve">' in str(draw_ranks([[1, 1]]))
    assert "<use" in str(draw_ranks([[1, 1]])).partition('<g id="ranks-curve">')[2]  # a dot
    assert draw_ranks([]) is None
    assert draw_ranks([[0, 5], [3, 0]]) is None


def test_a_long_curve_is_thinned_to_what_can_be_seen() -> None:
    drawing = draw_ranks([[10**9 // rank**2 + rank % 7, 1] for rank in range(1, 200_000)])
    places = points(drawing, "ranks-curve")
    assert 100 < len(places) < 1500
    assert len(str(drawing)) < 60_000


def test_bars_show_shares_of_each_split() -> None:
    histograms = {"Training": {"64": 1, "256": 3}, "Validation": {64: 2}, "Test": {}}
    powers, shares = find_shares(histograms)
    assert powers == range(6, 9)
    assert shares == {"Training": [0.25, 0, 0.75], "Validation": [1, 0, 0]}
    drawing = draw_lengths(histograms, name="lengths", noun="things")
    assert texts(drawing) == [
        *("64", "128", "256", "words; 64 stands for things of 64 to 127"),
        *("0\u00a0%", "25\u00a0%", "50\u00a0%", "75\u00a0%", "100\u00a0%"),
        *("Training", "Validation"),
    ]
    first, second, third = bars(drawing)[:3]
    assert [bar[0] for bar in (first, second, third)] == ["#1a5fb4", "#1a5fb4", "#c25a00"]
    assert second[3] == pytest.approx(3 * first[3], abs=1e-3)
    assert third[3] == pytest.approx(4 * first[3], abs=1e-3)
    assert third[1] == pytest.approx(first[1] + first[2], abs=1e-3)  # side by side
    alone = draw_lengths({"all": {"1": 2}}, name="documents", noun="things")
    assert find_shares({"all": {"1": 2}}) == (range(1), {"all": [1]})
    assert len(bars(alone)) == 1
    assert "all" not in texts(alone)


@pytest.mark.parametrize(
    ("share", "ticks"),
    [
        (0.015, [0, 1, 2]),
        (0.04, [0, 1, 2, 3, 4]),
        (0.07, [0, 2, 4, 6, 8]),
        (0.2, [0, 5, 10, 15, 20]),
        (0.55, [0, 20, 40, 60]),
        (1.0, [0, 25, 50, 75, 100]),
    ],
)
def test_the_axis_of_shares_suits_the_greatest(share: float, ticks: list[int]) -> None:
    assert find_percent_ticks(share) == ticks


def test_many_lengths_have_few_ticks() -> None:
    drawing = draw_lengths(
        {"all": {1 << power: 1 for power in range(100)}}, name="x", noun="things"
    )
    assert len([text for text in texts(drawing) if text.isalnum()]) == 10


def test_no_lengths_no_bars() -> None:
    histograms: dict[str, dict[str, int]] = {"Training": {}, "Validation": {"4": 0}}
    assert draw_lengths(histograms, name="lengths", noun="things") is None


def test_ids_of_several_charts_on_a_page_differ() -> None:
    one = draw_lengths({"all": {1: 1}}, name="documents", noun="documents")
    other = draw_lengths({"all": {1: 1}}, name="lengths", noun="records")
    ids = [set(re.findall(r' id="([^"]*)"', str(drawing))) for drawing in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for drawing, known in zip((one, other), ids, strict=True):
        assert set(re.findall(r"(?:href=\"#|url\(#)([^\")]*)", str(drawing))) <= known
