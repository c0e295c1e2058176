"""Shows words of any text as one line of plain text or Markdown. No TensorFlow here."""

from __future__ import annotations

from model.text.vocab import EOS_ID, LINE_END, SPECIAL_WORDS


def show_word(word: bytes) -> str:
    """Returns a word of a record as text; a line end is `</s>`."""
    return SPECIAL_WORDS[EOS_ID] if word == LINE_END else word.decode(errors="replace")


def printable(word: str) -> str:
    r"""Returns a word on one line, without invisible characters and never empty.

    Invisible characters become Python escapes (`\t`, `\u2028`), as do spaces at the ends and
    backslashes, so different words stay different; the empty word becomes `""`.
    """
    core = word.strip(" ")
    before = len(word) - len(word.lstrip(" "))
    after = len(word) - before - len(core)
    shown = "".join(_printable(char) for char in core)
    return r"\x20" * before + shown + r"\x20" * after if word else '""'


def _printable(char: str) -> str:
    if char == '"':
        return r"\""  # so that `""` is only the empty word
    if char == "\\" or not char.isprintable():
        return char.encode("unicode_escape").decode("ascii")
    return char


def markdown(text: str) -> str:
    """Escapes text so that Markdown shows it literally, even in a table cell, without links."""
    return "".join(_literal(char, text[at + 1 : at + 2]) for at, char in enumerate(text))


def _literal(char: str, follower: str) -> str:
    is_plain = char.isalnum() or char in " ,;%()'\u00a0\u2212"
    if is_plain or (char == "." and not follower.isalpha()):  # www.example.com would be a link
        return char
    return f"&#{ord(char)};"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table; cells are shown literally."""
    lines = [header, ["---"] * len(header), *([markdown(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
