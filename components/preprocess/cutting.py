"""Cuts the text of a file into the pieces that become records, and splits them.

Shape letters: L words in a piece.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator

import tensorflow as tf

from components.preprocess.sources import BadTextError, SourceText
from model import text as model_text
from model.config import DataConfig
from model.vocab import DOCUMENT_START


@dataclasses.dataclass(frozen=True)
class Piece:
    """What becomes one record.

    Attributes:
      source: `name:offset` of its first line; `name:offset+k` where it begins k words
        into a long line.
      split: `train`, `valid` or `test`.
      words: `[L + 1]` words, the one before the piece first.
    """

    source: str
    split: str
    words: list[bytes]


def cut_text(
    text: SourceText, name: str, config: DataConfig, *, split: str = ""
) -> Iterator[Piece]:
    """Tokenises a file and yields its pieces, in reading order.

    Args:
      text: the file's text; one block of its lines is held at a time.
      name: the file's name in `Piece.source`.
      config: what a word, a document, a piece and a split are.
      split: where all pieces go; if empty, `choose_split` chooses for each of them.

    Raises:
      BadTextError: it holds no word.
    """
    cutter = _Cutter(name, config, split)
    blank = True
    for lines, offsets in text.blocks():
        for offset, words in zip(offsets, _tokenize(lines, config), strict=True):
            blank = blank and not words
            cutter.add_line(offset, words)
        yield from cutter.take()
    if blank:
        raise BadTextError("blank")
    cutter.end_document()
    yield from cutter.take()


def _tokenize(lines: list[bytes], config: DataConfig) -> Iterator[list[bytes]]:
    """Yields the words of each line, its line-end mark included."""
    with tf.device("CPU:0"):  # else every Beam worker would claim a GPU's memory
        flat, ends = _tokenizer(config)(tf.constant(lines, tf.string))
    words: list[bytes] = flat.numpy().tolist()
    begin = 0
    for end in ends.numpy().tolist():
        yield words[begin:end]
        begin = end


@functools.cache
def _tokenizer(config: DataConfig) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a compiled function from `[N]` lines to their words and where each line ends."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def tokenize(lines: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        words = model_text.tokenize_lines(lines, config)
        if config.sentence_marks:
            words = model_text.mark_line_ends(words)
        return words.flat_values, words.row_limits()

    return tokenize  # type: ignore[no-any-return]


def choose_split(source: str, config: DataConfig) -> str:
    """Returns the split of a piece: a pure function of where it stands."""
    digest = hashlib.sha256(source.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if place < config.test_fraction:
        return "test"
    return "valid" if place < config.test_fraction + config.valid_fraction else "train"


class _Cutter:
    """Gathers lines to pieces.

    A piece ends at the first line end where it has `record_words` words; a line of more
    than twice as many words is cut inside. A document's last piece, when it is shorter
    than a quarter of `record_words`, is joined to the one before.
    """

    def __init__(self, name: str, config: DataConfig, split: str) -> None:
        self._pieces: list[Piece] = []
        self._name = name
        self._config = config
        self._split = split
        self._before = DOCUMENT_START
        self._words: list[bytes] = []
        self._source = ""
        self._held: tuple[str, list[bytes]] | None = None  # waits for a short last piece

    def take(self) -> list[Piece]:
        """Returns the pieces finished since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def add_line(self, offset: int, words: list[bytes]) -> None:
        """Takes the words of the line that begins at `offset`."""
        if not words:
            if self._config.document == "paragraph":
                self.end_document()
            return
        size = self._config.record_words
        step = size if len(words) > 2 * size else len(words)
        for begin in range(0, len(words), step):
            if not self._words:
                inside = f"+{begin}" if begin else ""
                self._source = f"{self._name}:{offset}{inside}"
            self._words += words[begin : begin + step]
            if len(self._words) >= size:
                self._hold()
        if self._config.document == "line":
            self.end_document()

    def end_document(self) -> None:
        """Ends the last piece; the next word begins a document."""
        if self._held and 4 * len(self._words) < self._config.record_words:
            self._held[1].extend(self._words)
            self._words = []
        elif self._words:
            self._hold()
        self._release()
        self._before = DOCUMENT_START

    def _hold(self) -> None:
        self._release()
        self._held = (self._source, self._words)
        self._words = []

    def _release(self) -> None:
        if self._held:
            source, words = self._held
            split = self._split or choose_split(source, self._config)
            self._pieces.append(Piece(source=source, split=split, words=[self._before, *words]))
            self._before = words[-1]
            self._held = None
