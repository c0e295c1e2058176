from __future__ import annotations

import copy
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.charts import draw_bars, draw_curves
from components.evaluate.page import (
    SHOWN_POINTS,
    SHOWN_SOURCES,
    render_page,
)
from components.html import SHOWN_CHARACTERS, visible

HOSTILE = "</bdi></td><script>parent.hacked = 1</script><img src=x onerror='parent.hacked = 1'>\"'"
NO_END = {"meta", "link", "img", "br"}


def one_slice(words: int, model: float | None, unigram: float | None) -> dict[str, Any]:
    return {"words": words, "perplexity": model, "unigram_perplexity": unigram}


def one_sample(context: str, truth: str, *words: str) -> dict[str, Any]:
    guesses = [{"word": word, "probability": 0.5 / 2**i} for i, word in enumerate(words)]
    return {"context": context, "truth": truth, "next": guesses}


REPORT: dict[str, Any] = {
    "format_version": 4,
    "verdict": {"status": "PASSED", "reasons": ["it is < than the limit", "it beats the unigram"]},
    "gate": {"max_perplexity": 300.0},
    "config": {
        "config_version": 1,
        "model": {"inputs": "joint", "filter_widths": [1, 2]},
        "gate": {"max_perplexity": 1000.0},
    },
    "dataset": {"digest": "da7a" * 16, "train_words": 58231, "vocab_size": 2931},
    "checkpoint": {"step": 1200, "digest": "c0de" * 16, "path": "work/checkpoints/1200"},
    "parameters": 1843201,
    "splits": {
        "valid": {"perplexity": 190.5, "words": 4000},
        "test": {
            "perplexity": 207.4041,
            "words": 12345,
            "bits_per_character": 1.7512,
            "text_characters": 54321,
            "characters_estimated": False,
            "unknown_words": 679,
            "slices": {
                "unknown": one_slice(679, 1500.25, 64.0),
                "1-5": one_slice(0, None, None),
                "6-100": one_slice(4666, 2000.0, 5000.0),
                ">100": one_slice(7000, 30.0, 120.0),
            },
            "documents": [
                {"source": f"state/{i:02}.txt:0", "words": 10, "log_likelihood": -10.0 * (4 + i)}
                for i in range(12)
            ],
        },
    },
    "baseline": {
        "unigram": {"perplexity": 829.6164, "words": 12345},
        "bigram": {"perplexity": 415.25, "words": 12345},
    },
    "samples": [
        one_sample("the value of the", "object", "expression", "object", "\n", "a", "b"),
        one_sample("first </s> second\n", "</s>", "</s>", "<unk>"),
    ],
    "curves": {
        "train": [{"step": s, "perplexity": 2000 / s} for s in range(1, 11)],
        "valid": [{"step": 5, "perplexity": 300.0}, {"step": 10, "perplexity": 190.5}],
        "workers": 2,
    },
    "seconds": {"training": 252.3, "evaluation": 3725.0},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    report = copy.deepcopy(REPORT)
    *folders, name = path.split(".")
    parent = report
    for folder in folders:
        parent = parent[folder]
    parent[name] = value
    return report


class Element:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Element | str] = []

    @property
    def text(self) -> str:
        parts = [part if isinstance(part, str) else part.text for part in self.children]
        return " ".join("".join(parts).split(" ")).strip("\n ")

    def all(self, *tags: str) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                if not tags or child.tag in tags:
                    yield child
                yield from child.all(*tags)

    def rows(self) -> list[list[str]]:
        return [[cell.text for cell in row.all("th", "td")] for row in self.all("tr")]


class Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attributes))
        self.open[-1].children.append(element)
        if tag not in NO_END:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert len(parser.open) == 1, "an element is left open"
    return parser.open[0]


def read_facts(root: Element) -> dict[str, tuple[str, ...]]:
    facts = next(root.all("dl"))
    return {
        next(fact.all("dt")).text: tuple(value.text for value in fact.all("dd"))
        for fact in facts.all("div")
    }


def tables(root: Element) -> list[list[list[str]]]:
    return [table.rows() for table in root.all("table")]


def test_verdict_comes_first_in_words() -> None:
    root = parse(render_page(REPORT))
    headings = [heading.text for heading in root.all("h1", "h2")]
    assert headings[:2] == ["charloom evaluation report", "✓ PASSED"]
    assert next(root.all("title")).text == "charloom: PASSED, test perplexity 207.40"
    section = next(root.all("section"))
    assert section.attributes["class"] == "verdict passed"
    assert [item.text for item in section.all("li")] == REPORT["verdict"]["reasons"]


@pytest.mark.parametrize("verdict", [{"status": "REJECTED", "reasons": []}, {}, None, "PASSED"])
def test_what_is_not_clearly_passed_is_rejected(verdict: Any) -> None:
    root = parse(render_page(changed("verdict", verdict)))
    section = next(root.all("section"))
    assert section.attributes["class"] == "verdict rejected"
    assert section.text.split("\n") == ["✕ REJECTED", "The model is not exported."]


def test_key_figures() -> None:
    assert read_facts(parse(render_page(REPORT))) == {
        "Test perplexity": ("207.40", "lower is better"),
        "Unigram perplexity": ("829.62", "the model has 25.0\u00a0% of it"),
        "Bigram perplexity": ("415.25", "from counts of word pairs"),
        "Bits per character": ("1.751", "unknown words by their spelling"),
        "Validation perplexity": ("190.50", "on 4,000 words"),
        "Test words": ("12,345", "scored by the full softmax"),
        "Unknown words": ("5.5\u00a0%", "vocabulary of 2,931"),
        "Parameters": ("1,843,201", "numbers learnt"),
        "Training steps": ("1,200", "of this checkpoint"),
        "Workers": ("2", "processes that trained"),
        "Training time": (
            "4\u00a0min\u00a012\u00a0s",
            "evaluation: 1\u00a0h\u00a02\u00a0min",
        ),
    }


def test_tables() -> None:
    slices, samples, worst, best, origins, config = tables(parse(render_page(REPORT)))
    assert slices == [
        ["In training", "Words", "Share", "Model", "Unigram"],
        ["unknown word", "679", "5.5\u00a0%", "1,500.25", "64.00"],
        ["1 to 5 times", "0", "0.0\u00a0%", "not available", "not available"],
        ["6 to 100 times", "4,666", "37.8\u00a0%", "2,000.00", "5,000.00"],
        ["over 100 times", "7,000", "56.7\u00a0%", "30.00", "120.00"],
    ]
    assert samples[1][:2] == ["the value of the", "object"]
    assert samples[1][2].split("\n") == [
        "expression\u00a050.0\u00a0%",
        "object\u00a025.0\u00a0%\u00a0✓",
        "↵\u00a012.5\u00a0%",
        "a\u00a06.2\u00a0%",
        "b\u00a03.1\u00a0%",
    ]
    assert samples[2] == [
        "first ↵ second↵",
        "↵",
        "↵\u00a050.0\u00a0%\u00a0✓\n<unk>\u00a025.0\u00a0%",
    ]
    assert [row[0] for row in worst[1:]] == [f"state/{i:02}.txt" for i in (11, 10, 9, 8, 7)]
    assert [row[0] for row in best[1:]] == [f"state/{i:02}.txt" for i in (4, 3, 2, 1, 0)]
    assert best[-1] == ["state/00.txt", "10", f"{math.exp(4):.2f}"]
    assert origins == [
        ["Checkpoint", "work/checkpoints/1200"],
        ["Checkpoint digest", "c0de" * 16],
        ["Records digest", "da7a" * 16],
        ["Training words", "58,231"],
    ]
    assert ["gate.max_perplexity", "300.0"] in config  # the limit that was applied
    assert ["gate.max_perplexity", "1000.0"] not in config
    assert ["model.filter_widths", "[1, 2]"] in config


@pytest.mark.parametrize(("count", "lengths"), [(1, [1]), (5, [5]), (7, [5, 2]), (99, [5, 5])])
def test_few_sources_are_shown_once(count: int, lengths: list[int]) -> None:
    documents = [{"source": str(i), "words": 1, "log_likelihood": -i / 9} for i in range(count)]
    shown = tables(parse(render_page(changed("splits.test.documents", documents))))[2:-2]
    assert [len(table) - 1 for table in shown] == lengths
    assert max(lengths) == min(count, SHOWN_SOURCES)


def hostile_report(text: str = HOSTILE) -> dict[str, Any]:
    report = copy.deepcopy(REPORT)
    report["verdict"]["reasons"] = [text]
    report["config"] = {text: {text: text}}
    report["dataset"]["digest"] = report["checkpoint"]["path"] = text
    report["samples"] = [one_sample(text, text, text, text)]
    report["splits"]["test"]["documents"][0]["source"] = text
    return report


def test_hostile_text_is_shown_as_text() -> None:
    page = render_page(hostile_report())
    root = parse(page)
    assert not list(root.all("script", "img", "iframe", "object", "embed", "form", "base"))
    for element in root.all():
        assert not [name for name in element.attributes if name.startswith("on")]
    assert root.text.count(HOSTILE) == 11
    assert "<script" not in page


def test_signs_that_would_change_the_page_are_replaced() -> None:
    assert visible("a\nb\tc\x00\u202e\u2028\ud800é") == "a↵b\ufffdc\ufffd\ufffd\ufffd\ufffdé"
    assert visible("\u0645\u06cc\u200c\u0634\u0648\u062f") == "\u0645\u06cc\u200c\u0634\u0648\u062f"
    assert visible("x" * 10**6) == "x" * SHOWN_CHARACTERS + "…"
    page = render_page(hostile_report("\ud800\x00\u202e"))
    assert not set(page) & set("\ud800\x00\u202e")
    page.encode("utf-8")


def test_asks_for_nothing_outside() -> None:
    page = render_page(hostile_report(text="plain"))
    root = parse(page)
    for element in root.all():
        assert element.tag not in ("script", "img", "iframe")
        assert not {"src", "srcset", "action", "data", "background"} & set(element.attributes)
        for name in ("href", "xlink:href"):
            assert (element.attributes.get(name) or "#").startswith(("#", "data:,"))
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    policy = next(m for m in root.all("meta") if "http-equiv" in m.attributes).attributes["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert len(page) < 60_000


def test_ids_are_unique_and_references_resolve() -> None:
    page = render_page(REPORT)
    ids = Counter(re.findall(r'\bid="([^"]*)"', page))
    assert [name for name, count in ids.items() if count > 1] == []
    references = set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([\w-]+)', page))
    assert references
    assert references <= set(ids)


def test_can_be_read_by_machines_that_read_aloud() -> None:
    root = parse(render_page(REPORT))
    assert next(root.all("html")).attributes["lang"] == "en"
    viewports = [m for m in root.all("meta") if m.attributes.get("name") == "viewport"]
    assert viewports[0].attributes["content"] == "width=device-width, initial-scale=1"
    assert all(cell.attributes.get("scope") in ("row", "col") for cell in root.all("th"))
    drawings = list(root.all("svg"))
    assert [drawing.attributes["role"] for drawing in drawings] == ["img", "img"]
    assert drawings[0].attributes["aria-label"] == (
        "Line chart of perplexity by training step, logarithmic. Validation perplexity is "
        "190.50 at step 10; the lowest is 190.50 at step 10."
    )
    assert str(drawings[1].attributes["aria-label"]).startswith("Bar chart of perplexity")


def test_report_without_figures() -> None:
    root = parse(render_page({"verdict": {"status": "REJECTED", "reasons": ["no sums"]}}))
    values = {label: fact[0] for label, fact in read_facts(root).items()}
    assert set(values.values()) == {"not available"}
    assert len(values) == 11
    for text in ("Training curves", "Slice figures", "Samples"):
        assert any(p.text.startswith(text) for p in root.all("p"))
    assert not list(root.all("svg"))


def paths_of(values: Any, path: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield path + key
        if isinstance(value, dict):
            yield from paths_of(value, f"{path}{key}.")


@pytest.mark.parametrize("junk", [None, math.nan, -math.inf, True, "1", [1], [{}], {}, 0, -1])
def test_no_value_breaks_the_page(junk: Any) -> None:
    quick = changed("curves", {})  # drawings have their own tests
    quick["splits"]["test"]["slices"] = {}
    for path in paths_of(REPORT):
        if not path.startswith(("curves.", "splits.test.slices")):
            report = copy.deepcopy(quick)
            *folders, name = path.split(".")
            parent = report
            for folder in folders:
                parent = parent[folder]
            parent[name] = junk
            assert "nan" not in parse(render_page(report)).text.split(), path


def test_not_finite_figures_are_not_available() -> None:
    facts = read_facts(parse(render_page(changed("splits.test.perplexity", math.nan))))
    assert facts["Test perplexity"][0] == "not available"
    assert facts["Unigram perplexity"] == ("829.62",)


def test_curves() -> None:
    assert draw_curves([], []) is None
    one = str(draw_curves([(100.0, 50.0)], []))
    assert "training" in one
    assert "validation" not in one
    assert str(draw_curves([], [(1.0, 5.0), (2.0, 5.0)])).count(">validation</text>") == 1
    wide = str(draw_curves([(float(i), 10.0 ** (i % 9)) for i in range(1, 400)], []))
    # Which decades have a tick differs between versions of Matplotlib.
    assert re.search(">(1,000|10,000)</text>", wide)


def test_curves_leave_out_what_a_log_axis_cannot_show() -> None:
    bad = [0.0, -1.0, None, math.nan, math.inf, "9", True]
    points: list[Any] = [{"step": 1, "perplexity": value} for value in bad]
    points += [{"step": None, "perplexity": 9.0}, {}, None, 3]
    page = render_page(changed("curves", {"train": points, "valid": points}))
    assert "Training curves are not available." in page


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    points = [{"step": i, "perplexity": 500 - i / 1000} for i in range(1, 100_001)]
    page = render_page(changed("curves", {"train": points, "valid": points}))
    assert "Validation perplexity is 400.00 at step 100,000" in page
    assert len(page) < len(render_page(REPORT)) + 40 * SHOWN_POINTS


def test_bars() -> None:
    assert draw_bars([]) is None
    assert draw_bars([("a", None, None), ("b", None, 0.5)]) is None
    drawing = str(draw_bars([("often", 30.4, None), ("seldom", 1e7, 123456.0)]))
    for text in ("often", "seldom", "\u00a030", "\u00a0not available", "\u00a0123,456"):
        assert f">{text}</text>" in drawing


def test_same_report_gives_the_same_bytes_in_any_process() -> None:
    code = (
        "import json, sys; from components.evaluate.page import render_page;"
        "sys.stdout.buffer.write(render_page(json.load(sys.stdin)).encode())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(REPORT).encode(),
        env={**os.environ, "PYTHONHASHSEED": "7", "MPLBACKEND": "pdf"},
        cwd=Path(__file__).resolve().parent.parent,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert run.stdout.decode() == render_page(REPORT)
