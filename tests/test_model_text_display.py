from __future__ import annotations

import pytest

from model.text.display import markdown, printable, table


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("word", "word"),
        ("</s>", "</s>"),
        ("naïve", "naïve"),
        ("語", "語"),
        ("", '""'),
        ('""', r"\"\""),
        ("\t", r"\t"),
        ("a\tb\nc\r", r"a\tb\nc\r"),
        (" a b ", r"\x20a b\x20"),
        ("  ", r"\x20\x20"),
        ("\\t", r"\\t"),
        ("\x00\x1b\x7f", r"\x00\x1b\x7f"),
        ("a\u2028b\x85c\xa0", r"a\u2028b\x85c\xa0"),
        ("\u200b\ufeff", r"\u200b\ufeff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_printable(word: str, shown: str) -> None:
    assert printable(word) == shown
    assert len(shown.splitlines()) == 1
    assert shown == shown.strip()


def test_markdown_shows_every_mark_as_it_is() -> None:
    assert markdown("a b, ä9") == "a b, ä9"
    assert markdown("1.5 % (it's). a.b http://a.b") == (
        "1.5 % (it's). a&#46;b http&#58;&#47;&#47;a&#46;b"
    )
    assert markdown("<b>*|`&\\_") == (
        "&#60;b&#62;&#42;&#124;&#96;&#38;&#92;&#95;"
    )  # fmt: skip


def test_table() -> None:
    assert table(["x", "y"], [["1", "|"], ["", "z\n"]]) == (
        "| x | y |\n| --- | --- |\n| 1 | &#124; |\n|  | z&#10; |"
    )
