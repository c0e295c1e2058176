# ruff: noqa: RUF001 - letters that look like others are the point
from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tensorflow as tf
from languages import SAMPLES, plain_lines, plain_text
from tokenizing import tokenize_text
from volume import keep_first

from components.preprocess.main import run
from model.checkpointing.checkpoints import Checkpoint
from model.checkpointing.trained import Loaded
from model.config import TOKENIZERS, DataConfig, with_overrides
from model.data.records import Dataset
from model.network.joint_model import JointModel
from model.presets import tiny
from model.serving.export import compare
from model.serving.saved_model import ServedModel
from model.text.tokenizer import detokenize

UDHR = (
    *("arb", "cmn_hans", "ell_monotonic", "fin", "heb", "hin"),
    *("jpn", "kor", "rus", "tha", "tur", "vie"),
)

GOLDEN: dict[str, dict[str, str]] = {
    "arabic": {
        "whitespace": "كتبَ الولدُ رسالةً إلى جدّته.",
        "words": "كتب َ الولد ُ رسالة ً إلى جد ّ ته .",
    },
    "chinese": {
        "whitespace": "图书馆里有三千多本书，2024年又买了500本。",
        "words": "图书馆里有三千多本书 ， 2024 年又买了 500 本 。",
        "graphemes": "图 书 馆 里 有 三 千 多 本 书 ， 2024 年 又 买 了 500 本 。",
    },
    "finnish": {"words": "Äiti leipoo pullaa .", "words, lowercase": "äiti leipoo pullaa ."},
    "greek": {
        "words": "Ο γάτος κοιμάται στην πόρτα .",
        "words, lowercase": "ο γάτοσ κοιμάται στην πόρτα .",
    },
    "hebrew": {"whitespace": "הַיֶּלֶד קוֹרֵא סֵפֶר.", "words": "הַיֶּלֶד קוֹרֵא סֵפֶר ."},
    "hindi": {"words": "बच्चे नदी के किनारे खेलते हैं ।"},
    "japanese": {
        "words": "東京 タワ ー へ 行 きました 。 人々 は 第 ３ 回 の ｺﾋ ﾟｰ を 読 んだ 〆",
        "graphemes": "東 京 タ ワ ー へ 行 き ま し た 。 人 々 は 第 ３ 回 の ｺ ﾋﾟ ｰ を 読 ん だ 〆",
        "graphemes, lowercase": (
            "東 京 タ ワ ー へ 行 き ま し た 。 人 々 は 第 3 回 の コ ピ ー を 読 ん だ 〆"
        ),
    },
    "korean": {"words": "고양이가 문 앞에서 잔다 ."},
    "russian": {"words": "Кот спит у двери .", "words, lowercase": "кот спит у двери ."},
    "thai": {
        "words": "แมวนอนอยู่บนเสื่อ ๑๒ ชั่วโมง",
        "graphemes": "แ ม ว น อ น อ ยู่ บ น เ สื่ อ ๑ ๒ ชั่ ว โ ม ง",
    },
    "turkish": {
        "words": "İstanbul ' da IŞIK erken söner .",
        # Folded, İ is an i and a dot above, which is of another script; I is i in any language.
        "words, lowercase": "i \u0307 stanbul ' da işik erken söner .",
        "whitespace, lowercase": "i\u0307stanbul'da işik erken söner.",
    },
    "vietnamese": {
        "words": "Buổi sáng , bà bán bánh mì nóng .",
        "words, lowercase": "buổi sáng , bà bán bánh mì nóng .",
    },
}
"""The words of the first line of a sample. Where `graphemes` is missing they are those of `words`."""


def tokenize(text: str, config: DataConfig) -> list[str]:
    return [word.decode() for word in tokenize_text(tf.constant(text.encode()), config).numpy()]


@pytest.mark.parametrize("language", SAMPLES)
def test_the_words_of_a_sentence(language: str) -> None:
    sentence = SAMPLES[language].split("\n")[0]
    expected = GOLDEN[language]
    for name, words in ({"graphemes": expected["words"]} | expected).items():
        tokenizer, _, lowercase = name.partition(", ")
        config = DataConfig(tokenizer=tokenizer, lowercase=bool(lowercase), sentence_marks=False)
        assert tokenize(sentence, config) == words.split(" "), name


class Prepared(NamedTuple):
    """What `prepare` made of a folder of files."""

    config: DataConfig
    texts: Mapping[str, str]
    words: Mapping[str, list[bytes]]
    train: Mapping[str, Any]
    records: str


@pytest.fixture(
    scope="module",
    params=itertools.product(("samples", "udhr"), TOKENIZERS, (False, True)),
    ids=lambda case: f"{case[0]}-{case[1]}{'-lowercase' * case[2]}",
)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Twelve languages, through the stage itself."""
    source, tokenizer, lowercase = request.param
    folder = tmp_path_factory.mktemp("languages")
    if source == "udhr":
        shared: Path = request.getfixturevalue("shared_data")
        files = {name: shared / "udhr" / f"{name}.txt" for name in UDHR}
    else:
        files = {name: folder / f"{name}.txt" for name in SAMPLES}
        for name, text in SAMPLES.items():
            files[name].write_bytes(text.encode())
    config = DataConfig(
        tokenizer=tokenizer, lowercase=lowercase, record_words=64, valid_fraction=0, test_fraction=0
    )
    records = str(folder / "records")
    info = run(inputs=[*map(str, files.values())], records=records, config=config, beam_workers=1)
    words: dict[str, list[bytes]] = {name: [] for name in files}
    with Dataset.open(records) as dataset:
        for index in range(len(dataset.lengths("train"))):
            record = dataset.read("train", index)
            words[record.source.partition(".txt:")[0]].extend(record.spelled_words()[1:])
    return Prepared(
        config=config,
        texts={name: file.read_bytes().decode() for name, file in files.items()},
        words=words,
        train=info["splits"]["train"],
        records=records,
    )


def test_a_language_goes_through(prepared: Prepared) -> None:
    words = characters = size = 0
    for name, text in prepared.texts.items():
        lines = plain_lines(
            text, tokenizer=prepared.config.tokenizer, lowercase=prepared.config.lowercase
        )
        expected = [word.encode() for line in lines for word in [*line, "\n"]]
        assert prepared.words[name] == expected, name
        words += len(expected)
        characters += sum(len(word) for line in lines for word in line)
        size += sum(len(word.encode()) for line in lines for word in line)
    found = prepared.train
    assert (found["words"], found["characters"], found["bytes"]) == (words, characters, size)


def test_joined_words_make_the_same_words_again(prepared: Prepared) -> None:
    for name, words in prepared.words.items():
        text = tf.constant(detokenize(words))
        assert tokenize_text(text, prepared.config).numpy().tolist() == words, name


def test_joined_words_are_the_text(prepared: Prepared) -> None:
    for name, words in prepared.words.items():
        text = plain_text(prepared.texts[name], lowercase=prepared.config.lowercase)
        lines = [line.split() for line in text.split("\n")]
        joined = detokenize(words).decode()
        if prepared.config.tokenizer == "whitespace":
            assert joined == "".join(f"{' '.join(line)}\n" for line in lines if line), name
        else:
            assert "".join(joined.split()) == "".join(itertools.chain(*lines)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokenizer", "lowercase"),
    keep_first([("graphemes", False), ("words", True), ("whitespace", False)]),
)
def test_the_exported_model_splits_texts_as_the_data_stage(
    tmp_path: Path, tokenizer: str, lowercase: bool
) -> None:
    for name, text in SAMPLES.items():
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    settings = ["valid_fraction=0", "test_fraction=0", "record_words=8", "sentence_marks=true"]
    settings += [f"tokenizer={tokenizer}", f"lowercase={str(lowercase).lower()}"]
    config = with_overrides(tiny(), [f"data.{setting}" for setting in settings])
    records, saved = str(tmp_path / "records"), str(tmp_path / "saved")
    run(inputs=[str(tmp_path / "*.txt")], records=records, config=config.data, beam_workers=1)
    with Dataset.open(records) as dataset:
        found: dict[str, list[bytes]] = {name: [] for name in SAMPLES}
        for index in range(len(dataset.lengths("train"))):
            record = dataset.read("train", index)
            found[record.source.partition(".txt:")[0]].extend(record.spelled_words()[1:])
        model = JointModel(config.model, vocab_counts=dataset.vocab.counts, seed=1)
        served = ServedModel(model, config=config, vocab=dataset.vocab)
        tf.saved_model.save(served, saved, signatures={"score": served.score})
        # Records end inside lines, too: each is compared as a document of its own.
        loaded = Loaded(model, config, Checkpoint(path="", arrays={}, meta={}))
        reloaded = tf.saved_model.load(saved)
        assert compare(reloaded, loaded=loaded, dataset=dataset, count=99)["texts"] > len(SAMPLES)
    tokens = reloaded.score(tf.constant(list(SAMPLES.values())))["tokens"].numpy()
    for row, words in zip(tokens, found.values(), strict=True):
        shown = [b"</s>" if word == b"\n" else word for word in words]
        assert row.tolist() == shown + [b""] * (tokens.shape[1] - len(words))
