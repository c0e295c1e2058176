"""A corpus of several files, scripts and sizes, made from a seed, for comparing engines."""

from __future__ import annotations

import gzip
import itertools
import random
from pathlib import Path

from model.config import DataConfig

CONFIG = DataConfig(
    record_words=200,
    vocab_size=4000,
    shard_megabytes=1,
    valid_fraction=0.1,
    test_fraction=0.1,
)

_SCRIPTS = {
    "arabic": "\u0627\u0628\u062a\u062c\u062d\u062f\u0631\u0633\u0639\u0641\u0642\u0644\u0645\u0646",
    "cyrillic": "абвгдежзиклмнопрстуя",
    "devanagari": "\u0915\u0916\u0917\u091a\u091c\u091f\u0921\u0924\u0926\u0928\u092a\u092c\u092e\u093e\u093f",
    "german": "abcdefghiklmnoprstuäöüß",
    "greek": "αβγδεζηθικλμνοπρστυφω",
    "han": "日月火水木金土山川田中人大小上下天地",
    "hangul": "가나다라마바사아자차카타파하",
    "hebrew": "\u05d0\u05d1\u05d2\u05d3\u05d4\u05d5\u05d6\u05d7\u05d8\u05d9\u05db\u05dc\u05de\u05e0",
    "kana": "あいうえおかきくけこさしすせそ",
    "thai": "\u0e01\u0e02\u0e04\u0e07\u0e08\u0e0a\u0e14\u0e15\u0e17\u0e19\u0e1a\u0e1b\u0e21\u0e22",
    "vietnamese": ("a\u0300", "e\u0302\u0301", "o\u031b", "u", "i", "n", "g", "h", "t", "c"),
}
_LINE_ENDS = ("\n", "\r\n", "\r", "\n\n")


def write_corpus(folder: Path, *, megabytes: float = 17.0, seed: int = 20) -> Path:
    """Writes one file of `megabytes` MB and one of some 100 kB for each script.

    The big file is of more than one block, so that its parts go to different workers.
    """
    rng = random.Random(seed)
    folder.mkdir()
    sizes = {"english": int(megabytes * 1e6)} | dict.fromkeys(_SCRIPTS, 100000)
    for name, size in sizes.items():
        letters = _SCRIPTS.get(name, "etaoinshrdlucmfwypvbgk")
        data = _make_text(rng, letters, size).encode()
        if name == "greek":
            (folder / "greek.txt.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / f"{name}.txt").write_bytes(data)
    return folder


def _make_text(rng: random.Random, letters: str | tuple[str, ...], size: int) -> str:
    """Returns lines of words, the r-th of which comes about 1/r as often as the first."""
    words = ["".join(rng.choices(letters, k=rng.randint(1, 8))) for _ in range(20_000)]
    words[:4] = [",", ".", "2026", words[4].upper()]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    line_end = rng.choice(_LINE_ENDS)
    lines: list[str] = []
    written = 0
    while written < size:
        line = " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(0, 60)))
        lines.append(line + line_end)
        written += len(lines[-1].encode())
    return "".join(lines)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of every file below a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
