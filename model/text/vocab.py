"""Maps words to ids; reads and writes the vocabulary file.

A stream of words contains two marks in addition to the words of the text. They are strings that no
tokenizer can produce, so text that contains the letters `</s>` is never taken for a mark:

  ""    `<s>`, before the first word of a document; read, never predicted
  "\\n"  `</s>`, a line end; read and predicted

No TensorFlow here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from model.errors import InputError
from model.files import write_whole

DOCUMENT_START = b""
LINE_END = b"\n"

EOS_ID, UNK_ID, BOS_ID = 0, 1, 2
"""Ids of `</s>`, `<unk>` and `<s>`."""
SPECIAL_WORDS = ("</s>", "<unk>", "<s>")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words by id: the three special ones, then by descending count, ties by spelling.

    Log-uniform samplers rely on the order.
    """

    words: tuple[str, ...]
    """`[V]` words."""
    counts: tuple[int, ...]
    """`[V]` how often each word is a training target."""

    @classmethod
    def build(
        cls, counts: Mapping[bytes, int], *, max_size: int, min_count: int, others: int = 0
    ) -> Vocabulary:
        """Selects the vocabulary by counts in the training split.

        Args:
          counts: count of each word of the stream, `\
          ` for line ends.
          max_size: maximum V, including special words.
          min_count: words seen less often are left out.
          others: total count of the words missing from `counts`.
        """
        literal = {word.encode() for word in SPECIAL_WORDS}
        ranked = sorted(
            (-count, word)
            for word, count in counts.items()
            if count >= min_count and word not in (DOCUMENT_START, LINE_END) and word not in literal
        )[: max_size - len(SPECIAL_WORDS)]
        return cls._from_ranked(ranked, counts, others)

    @classmethod
    def choose(
        cls, counts: Mapping[bytes, int], words: Iterable[str], *, others: int = 0
    ) -> Vocabulary:
        """Builds the vocabulary from a given list of words, as returned by `read_words`.

        Args:
          counts: count of each word of the training split, `\
          ` for line ends; determines the order.
            Words missing from it come last, with count 0.
          words: distinct words, without special ones.
          others: total count of the words missing from `counts`.
        """
        encoded = (word.encode() for word in words)
        ranked = sorted((-counts.get(word, 0), word) for word in encoded)
        return cls._from_ranked(ranked, counts, others)

    @classmethod
    def _from_ranked(
        cls, ranked: Sequence[tuple[int, bytes]], counts: Mapping[bytes, int], others: int
    ) -> Vocabulary:
        """Prepends the special words to words ranked by their negative counts."""
        kept = sum(-count for count, _ in ranked)
        line_ends = counts.get(LINE_END, 0)
        starts = counts.get(DOCUMENT_START, 0)
        unknown = sum(counts.values()) + others - kept - line_ends - starts
        return cls(
            words=SPECIAL_WORDS + tuple(word.decode() for _, word in ranked),
            counts=(line_ends, unknown, 0) + tuple(-count for count, _ in ranked),
        )

    def __len__(self) -> int:
        return len(self.words)

    @functools.cached_property
    def ids(self) -> dict[bytes, int]:
        """Id of each word of the stream."""
        table = {
            word.encode(): index
            for index, word in enumerate(self.words)
            if index >= len(SPECIAL_WORDS)
        }
        table[DOCUMENT_START] = BOS_ID
        table[LINE_END] = EOS_ID
        return table

    @functools.cached_property
    def stream_words(self) -> tuple[bytes, ...]:
        """`[V]` each word as it occurs in a stream; `<unk>`, which does not occur, by its name."""
        words = [word.encode() for word in self.words]
        words[BOS_ID], words[EOS_ID] = DOCUMENT_START, LINE_END
        return tuple(words)

    def encode(self, words: Sequence[bytes]) -> list[int]:
        """Returns the ids of words of a stream; `UNK_ID` for unknown ones."""
        ids = self.ids
        return [ids.get(word, UNK_ID) for word in words]

    def to_text(self) -> str:
        """Returns the vocabulary file's text: one line `word<TAB>count` per word."""
        return "".join(f"{w}\t{c}\n" for w, c in zip(self.words, self.counts, strict=True))

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary file's text."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def save(self, path: str) -> None:
        """Writes the vocabulary file."""
        write_whole(path, self.to_text())

    @classmethod
    def load(cls, path: str) -> Vocabulary:
        """Reads a vocabulary file that `save` wrote.

        Raises:
          InputError: the file is missing or malformed.
        """
        try:
            with open(path, encoding="utf-8", newline="\n") as file:
                rows = [line.split("\t") for line in file.read().split("\n") if line]
            words = tuple(word for word, _ in rows)
            counts = tuple(int(count) for _, count in rows)
        except FileNotFoundError:
            raise InputError(f"{path} is missing; run charloom prepare again") from None
        except ValueError:
            raise InputError(
                f"{path} is not a vocabulary file; run charloom prepare again"
            ) from None
        if words[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise InputError(
                f"{path} does not begin with {SPECIAL_WORDS}; run charloom prepare again"
            )
        return cls(words=words, counts=counts)


_BLANK = re.compile("[ \x0b\x0c\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
"""White space other than tab and line feed: never part of a word."""


def read_words(path: str) -> tuple[str, ...]:
    """Reads an external word list, one line `word` or `word<TAB>count` per word.

    Counts are validated but not used. Special words, which every vocabulary has, empty lines and a
    byte order mark are skipped.

    Args:
      path: a UTF-8 file, such as the `vocab.txt` of a records folder.

    Returns:
      The words in Unicode normal form C, as the tokenizers produce them, sorted.

    Raises:
      InputError: the file can't be read, or a line is malformed.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InputError(f"--vocab {path}: {error.strerror}") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix(b"\r")
        if not line:
            continue
        try:
            word = _read_word(line)
            if word in seen:
                raise ValueError(f"repeats the word {word!r} of line {seen[word]}")
        except ValueError as error:
            raise InputError(
                f"--vocab {path}, line {number} {error}; a line is a word, or a word, a tab and "
                "its count"
            ) from None
        seen[word] = number
    words = sorted(seen.keys() - set(SPECIAL_WORDS))
    if not words:
        raise InputError(f"--vocab {path} contains no words; write one per line")
    return tuple(words)


def _read_word(line: bytes) -> str:
    """Returns the word of a line; ValueError describes what is wrong with it."""
    try:
        word, *rest = line.decode().split("\t")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start} of the line)") from None
    if not word:
        raise ValueError("has no word")
    if _BLANK.search(line.decode()):
        raise ValueError("has white space inside")
    if len(rest) > 1:
        raise ValueError(f"has {len(rest)} tabs")
    if rest and not (rest[0].isascii() and rest[0].isdigit()):
        raise ValueError(f"has the count {rest[0]!r}, which is not a whole number")
    return unicodedata.normalize("NFC", word)
