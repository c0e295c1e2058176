"""Texts in twelve languages, and what is a word in them: tokenizers in plain Python.

Nothing here is shared with `model/text/tokenizer.py`: scripts are read off the names of characters. It knows
the scripts of these twelve languages and no others.
"""

# ruff: noqa: RUF001 - letters that look like others are the point
from __future__ import annotations

import unicodedata

SAMPLES = {
    "arabic": "كتبَ الولدُ رسالةً إلى جدّته.\nفي البيت ٣ قطط، أليس كذلك؟\n",
    "chinese": "图书馆里有三千多本书，2024年又买了500本。\n\n她说：“我爱读Python！”\n",
    "finnish": "Äiti leipoo pullaa.\nYöllä satoi 10 cm lunta – kaunista!\n",
    "greek": "Ο γάτος κοιμάται στην πόρτα.\nΠόσο κάνει; ΤΡΙΑ ευρώ· φτηνό!\n",
    "hebrew": "הַיֶּלֶד קוֹרֵא סֵפֶר.\nבבית יש 3 חתולים, נכון?\n",
    "hindi": "बच्चे नदी के किनारे खेलते हैं।\nमेरे पास १२ किताबें और 3 क़लम हैं।\n",
    "japanese": "東京タワーへ行きました。人々は第３回のｺﾋﾟｰを読んだ〆\nか゚とゝとヽ、ｷﾞﾀｰ…\n",
    "korean": "고양이가 문 앞에서 잔다.\n오늘은 책 3권을 읽었어요!\n",
    "russian": "Кот спит у двери.\nЁлка стоит в углу 12 дней!\n",
    "thai": "แมวนอนอยู่บนเสื่อ ๑๒ ชั่วโมง\nน้ำเย็นมากๆ 25 บาท\n",
    "turkish": "İstanbul'da IŞIK erken söner.\nKedi ılık sütü 3 kez içti.\n",
    "vietnamese": "Buổi sáng, bà bán bánh mì nóng.\nTôi có 2 con mèo đen.\n",
}
"""Two lines in each language, in normal form C or not."""

_COMMON, _INHERITED = "common", "inherited"
_DRAWN = "._-*=~#"
"""Signs of which a run is one word."""
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI")
_SHARED_KANA = "〆ーｰ"
_WRITTEN_ON = "ำﾞﾟ\u200c\u200d"
"""Not marks by category, but they belong to the letter before."""
_IGNORED = "\u00ad\u200b\u200c\u200d\u200e\u200f\ufeff"
"""What case folding drops, of what there is in texts here."""


def plain_lines(text: str, *, tokenizer: str, lowercase: bool) -> list[list[str]]:
    """Returns the words of each line that has one."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    cut = {"whitespace": lambda chunk: [chunk], "words": _words, "graphemes": _graphemes}[tokenizer]
    words = [
        [word for chunk in plain_text(line, lowercase=lowercase).split() for word in cut(chunk)]
        for line in lines
    ]
    return [line for line in words if line]


def plain_text(text: str, *, lowercase: bool) -> str:
    """Returns a text as the tokenizers read it: in normal form C, or case-folded."""
    if not lowercase:
        return unicodedata.normalize("NFC", text)
    text = "".join(char for char in text if char not in _IGNORED)
    while (folded := unicodedata.normalize("NFKC", text.casefold())) != text:
        text = folded
    return text


def _words(chunk: str) -> list[str]:
    words: list[str] = []
    last: object = None
    for char in chunk:
        kind = _kind(char)
        if words and kind == last:
            words[-1] += char
        else:
            words.append(char)
        last = kind
    return words


def _graphemes(chunk: str) -> list[str]:
    words: list[str] = []
    last: object = None
    for char in chunk:
        kind = "grapheme" if _is_unspaced(char) else _kind(char)
        follows = unicodedata.category(char)[0] == "M" or char in _WRITTEN_ON
        if last == "grapheme" and follows:
            words[-1] += char
            continue
        if words and kind == last != "grapheme":
            words[-1] += char
        else:
            words.append(char)
        last = kind
    return words


def _kind(char: str) -> object:
    """Returns what neighbours in a word have in common; each sign is a kind of its own."""
    if char in _DRAWN:
        return char
    return object() if unicodedata.category(char)[0] in "PS" else _script(char)


def _is_unspaced(char: str) -> bool:
    return char in _SHARED_KANA or _script(char) in _UNSPACED


def _script(char: str) -> str:
    name = unicodedata.name(char).removeprefix("HALFWIDTH ")
    if name.startswith("COMBINING") or "\u064b" <= char <= "\u0655" or char in "\u200c\u200d":
        return _INHERITED
    shared = ("DIGIT", "FULLWIDTH DIGIT", "ARABIC-INDIC DIGIT", "KATAKANA-HIRAGANA")
    shared += ("ARABIC TATWEEL", "KATAKANA VOICED", "KATAKANA SEMI-VOICED", "IDEOGRAPHIC CLOSING")
    if unicodedata.category(char) == "Cf" or name.startswith(shared):
        return _COMMON
    return name.replace("IDEOGRAPHIC", "CJK").split()[0]
