"""Signatures against a plain implementation and true resemblances; who is found, and who never."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from components.preprocess.analysis import near_duplicates
from components.preprocess.analysis.band_index import MAX_CANDIDATES, band_keys
from components.preprocess.analysis.near_duplicates import (
    SHOWN_PAIRS,
    Search,
    count_leaks,
    find_most_similar,
)
from components.preprocess.passes.signatures import (
    BINS,
    MIN_SHINGLES,
    SAMPLED,
    SHINGLE_WORDS,
    Hashes,
    Signatures,
    estimate_similarity,
    make_signatures,
)

SHORTEST = SHINGLE_WORDS + MIN_SHINGLES - 1
"""A record of fewer words has too few shingles, however many are used."""


def random_words(seed: int, *shape: int) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, shape, np.uint64)


def sign(*records: Hashes) -> Signatures:
    words = np.concatenate([np.zeros(0, np.uint64), *records])
    lengths = np.array([len(words) for words in records], np.int64)
    return make_signatures(words, np.arange(len(words)), lengths)


def signature(words: Hashes) -> Signatures:
    return sign(words)[0]


def edit(words: Hashes, share: float, *, seed: int) -> Hashes:
    """Changes just that share of the words, at random places."""
    places = np.random.default_rng(seed).permutation(len(words))[: round(share * len(words))]
    edited = words.copy()
    edited[places] = random_words(seed + 1, len(places))
    return edited


def jaccard(one: Hashes, other: Hashes) -> float:
    first, second = (
        set(zip(*(words[place:].tolist() for place in range(SHINGLE_WORDS)), strict=False))
        for words in (one, other)
    )
    return len(first & second) / len(first | second)


def mix(value: int) -> int:
    mask = 2**64 - 1
    value ^= value >> 30
    value = value * 0xBF58476D1CE4E5B9 & mask
    value ^= value >> 27
    value = value * 0x94D049BB133111EB & mask
    return value ^ value >> 31


def plain_signature(words: list[int]) -> list[int]:
    """The definition, a shingle at a time, with Python's whole numbers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
    if not words:
        return [0] * BINS
    begins = [
        begin for begin in range(len(words) - SHINGLE_WORDS + 1) if mix(words[begin]) % SAMPLED == 0
    ]
    if len(begins) < MIN_SHINGLES:
        total = len(words)
        for place, word in enumerate(words):
            total += mix((mix(word) + place * golden) & mask)
        bands = [mix(total & mask) * odd & mask for odd in range(1, BINS // 2, 2)]
        return [band >> 16 * place & 0xFFFF | 1 for band in bands for place in range(4)]
    least: dict[int, int] = {}
    for begin in begins:
        value = 0
        for word in words[begin : begin + SHINGLE_WORDS]:
            value = (value * 0xD1342543DE82EF95 + mix(word)) & mask
        value = mix(value)
        place = value * BINS >> 64
        least[place] = min(value, least.get(place, value))
    return [max(least[place] & 0xFFFF, 1) if place in least else 0 for place in range(BINS)]


@pytest.mark.parametrize("length", [0, 1, 4, 5, SHORTEST, 30, 40, 50, 700])
def test_a_signature_is_what_its_definition_says(length: int) -> None:
    words = random_words(length, length)
    assert signature(words).tolist() == plain_signature(words.tolist())


def test_signatures_never_change() -> None:
    made = make_signatures(
        np.arange(2000, dtype=np.uint64), np.arange(2000), np.array([3, 0, 12, 985, 1000])
    )
    assert made[:, 0].tolist() == [1097, 0, 45911, 23265, 11553]
    digest = hashlib.sha256(made.astype("<u2").tobytes()).hexdigest()
    assert digest == "69bb39af804295bdc3a695dee95e2b9972837c43c0eabbd8f0a4c35ebc05cfdc"


def test_records_are_signed_alike_alone_and_together() -> None:
    rng = np.random.default_rng(1)
    lengths = np.concatenate([rng.integers(0, 30, 400), [5000, 0, 0, 1, 3000], [12] * 30])
    words = random_words(2, int(lengths.sum()))
    ends = np.cumsum(lengths)
    alone = np.stack([signature(words[e - n : e]) for e, n in zip(ends, lengths, strict=True)])
    np.testing.assert_array_equal(make_signatures(words, np.arange(len(words)), lengths), alone)


def test_no_records_have_no_signatures() -> None:
    none = sign()
    assert none.shape == (0, BINS)
    result = count_leaks({"train": [none], "valid": [], "test": [sign(random_words(1, 50))]})
    assert (result["valid"], result["test"]) == (0, 0)
    assert result["compared"] == {"train": 0, "valid": 0, "test": 1}


@pytest.mark.parametrize("lengths", [[], [3], [3, 3], [2, 2]])
def test_lengths_that_do_not_add_up_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=f"{len(lengths)} records don't add up to 5 words"):
        make_signatures(random_words(1, 5), np.arange(5), np.array(lengths, np.int64))


@pytest.mark.parametrize("length", [60, 250, 1000, 20000])
def test_estimates_are_near_the_true_resemblance(length: int) -> None:
    base = random_words(7, length)
    shares = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    edited = [edit(base, share, seed=9) for share in shares]
    true = np.array([jaccard(base, words) for words in edited])
    estimated = estimate_similarity(signature(base), sign(*edited))
    assert np.abs(estimated - true).max() < 0.12
    assert estimated[0] == 1
    assert np.abs(estimated - true).mean() < 0.045


def test_repeated_shingles_count_once() -> None:
    words = random_words(3, 100)
    twice = np.concatenate([words, words, words])
    # The 4 shingles across each seam are the only new ones, and the two seams are alike.
    assert jaccard(words, twice) == pytest.approx(96 / 100)
    assert float(estimate_similarity(signature(words), signature(twice))) > 0.9


def test_exact_copies_are_found_always() -> None:
    lengths = [1 + index % 300 for index in range(900)]
    records = [random_words(100 + index, length) for index, length in enumerate(lengths)]
    train = sign(*records)
    shuffled = np.random.default_rng(1).permutation(900)
    result = count_leaks({"train": [train], "valid": [train[shuffled]], "test": [train[:10]]})
    assert (result["valid"], result["test"]) == (900, 10)
    assert result["same"] == {"valid": 900, "test": 10}
    similarity, partner = find_most_similar([train[shuffled]], [train])
    assert partner.tolist() == shuffled.tolist()
    assert set(similarity.tolist()) == {1.0}


@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.02, 400, 400), (0.05, 396, 400), (0.15, 0, 4)]
)
def test_edited_copies_are_found_nearly_always(share: float, least: int, most: int) -> None:
    records = random_words(5, 400, 1000)
    edited = [edit(words, share, seed=1000 + index) for index, words in enumerate(records)]
    others = random_words(6, 400, 1000)
    train, valid = sign(*others, *records), sign(*edited)
    result = count_leaks({"train": [train], "valid": [valid], "test": []})
    assert least <= result["valid"] <= most
    similarity, partner = find_most_similar([valid], [train])
    assert {*(partner[similarity >= 0.5] - np.arange(400, 800)[similarity >= 0.5])} <= {0}


def test_a_higher_threshold_finds_less() -> None:
    records = random_words(5, 100, 1000)
    edited = [edit(words, 0.05, seed=1000 + index) for index, words in enumerate(records)]
    signatures = {"train": [sign(*records)], "valid": [sign(*edited)], "test": [sign(*records)]}
    result = count_leaks(signatures, threshold=0.8)
    assert (result["valid"], result["test"], result["threshold"]) == (0, 100, 0.8)


def corpus_words(corpus: Path) -> Hashes:
    text = "\n".join(path.read_text("utf-8") for path in sorted(corpus.rglob("*.txt")))
    digests = [hashlib.blake2b(word.encode(), digest_size=8).digest() for word in text.split()]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def test_unrelated_texts_are_never_found(corpus: Path) -> None:
    words = corpus_words(corpus)
    half, size = len(words) // 2, 40
    first, second = (
        [*part[: half // size * size].reshape(-1, size)] for part in (words[:half], words[half:])
    )
    likely = np.random.default_rng(2).zipf(1.2, (3000, 100)).astype(np.uint64)  # frequent ones
    result = count_leaks(
        {
            "train": [sign(*first), sign(*likely[:2000])],
            "valid": [sign(*second)],
            "test": [sign(*likely[2000:])],
        }
    )
    assert (result["valid"], result["test"]) == (0, 0)
    assert min(result["compared"].values()) >= 70


def test_a_short_record_is_compared_as_a_whole() -> None:
    words = np.arange(1, SHORTEST, dtype=np.uint64)
    changed = [
        *(
            np.where(np.arange(len(words)) == place, 99, words).astype(np.uint64)
            for place in range(len(words))
        ),
        words[::-1],
        words[1:],
        words[:-1],
        np.append(words[1:], words[0]),
        np.append(words, np.uint64(99)),
        np.repeat(words, 2),
    ]
    assert find_most_similar([sign(*changed)], [sign(words)])[1].tolist() == [-1] * len(changed)
    assert find_most_similar([sign(words)], [sign(*changed, words)])[1].tolist() == [len(changed)]


def test_every_pair_of_short_records_is_told_apart() -> None:
    alphabet = [
        np.array(words, np.uint64)
        for n in range(1, 5)
        for words in itertools.product((0, 1, 2), repeat=n)
    ]
    similarity, partner = find_most_similar([sign(*alphabet)], [sign(*alphabet)])
    assert partner.tolist() == list(range(len(alphabet)))
    assert set(similarity.tolist()) == {1.0}


def test_records_without_words_resemble_none() -> None:
    empty = sign(np.zeros(0, np.uint64))
    assert estimate_similarity(empty, empty).tolist() == [0.0]
    assert count_leaks({"train": [empty], "valid": [empty], "test": []})["valid"] == 0


def test_pairs_are_named_the_most_similar_first() -> None:
    base = random_words(11, 30, 500)
    copy, near, far = base[4], edit(base[2], 0.01, seed=3), random_words(12, 500)
    signatures = {
        "train": [sign(*base[:10]), sign(*base[10:])],
        "valid": [sign(far, near), sign(copy)],
        "test": [sign(*base)],
    }
    result = count_leaks(signatures, source_of=lambda split, record: f"{split}.txt:{record}")
    found = round(float(estimate_similarity(signature(near), signature(base[2]))), 4)
    assert 0.8 < found < 1
    assert result["examples"][:2] == [
        {
            "split": "valid",
            "record": 2,
            "train_record": 4,
            "source": "valid.txt:2",
            "train_source": "train.txt:4",
            "similarity": 1.0,
        },
        {
            "split": "valid",
            "record": 1,
            "train_record": 2,
            "source": "valid.txt:1",
            "train_source": "train.txt:2",
            "similarity": found,
        },
    ]
    assert [pair["record"] for pair in result["examples"][2:]] == list(range(SHOWN_PAIRS))
    assert (result["valid"], result["test"], result["same"]) == (2, 30, {"valid": 1, "test": 30})
    assert result["compared"] == {"train": 30, "valid": 3, "test": 30}
    assert result["shingle_words"] == SHINGLE_WORDS
    bare = count_leaks(signatures)["examples"][0]
    assert bare == {"split": "valid", "record": 2, "train_record": 4, "similarity": 1.0}


@pytest.mark.parametrize("block", [4, 7, 64, 1000])
def test_parts_and_blocks_make_no_difference(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = random_words(21, 200, 60)
    valid = sign(*(edit(words, 0.03, seed=50 + i) for i, words in enumerate(base[::4])))
    train = sign(*base, *base[:20])
    expected = find_most_similar([valid], [train])
    assert expected[1].max() < 200  # of two that are the same, the first is taken
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    monkeypatch.setattr(near_duplicates, "_VERIFIED", 3)
    parts = find_most_similar(np.array_split(valid, 5), np.array_split(train, 9))
    for found, wanted in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def template(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """Records of 400 words that share 280 of them in one run."""
    records = random_words(seed, count, 400)
    records[:, :280] = np.arange(280)
    return records


def test_an_exact_copy_is_found_among_boilerplate() -> None:
    train = template(31, 500)
    assert len(train) > MAX_CANDIDATES
    similarity, partner = find_most_similar([sign(train[499], train[250])], [sign(*train)])
    assert similarity.tolist() == [1.0, 1.0]
    assert partner.tolist() == [499, 250]


def test_one_text_repeated_everywhere_costs_little() -> None:
    words = random_words(41, 100)
    same = np.broadcast_to(signature(words), (20000, BINS))
    result = count_leaks({"train": [same], "valid": [same[:5000]], "test": [same[:1]]})
    assert (result["valid"], result["test"]) == (5000, 1)
    assert {pair["train_record"] for pair in result["examples"]} == {0}


def test_memory_maps_are_read(tmp_path: Path) -> None:
    train = sign(*random_words(51, 50, 40))
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    assert count_leaks({"train": [mapped], "valid": [train[7:9]], "test": []})["valid"] == 2


def plain_search(
    records: Signatures, train: Signatures
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Compares all pairs: the highest resemblance of those that share a band, and which have it."""
    mine, others = band_keys(records)[:, :, None], band_keys(train)[:, None, :]
    shared = ((mine == others) & (mine != 0)).any(axis=0)
    likeness = np.where(shared, estimate_similarity(records[:, None], train[None]), 0)
    best = likeness.max(axis=1)
    return best, shared & (likeness == best[:, None])


@pytest.mark.parametrize(("length", "share"), [(8, 0.0), (35, 0.03), (60, 0.05), (400, 0.08)])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_index_finds_what_comparing_all_pairs_finds(
    length: int, share: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = random_words(61, 150, length)
    base[75:] = base[:75]
    for place in range(75, 150):
        base[place] = edit(base[place], share, seed=300 + place)
    train = sign(*base, *random_words(62, 50, 9))
    records = sign(
        *(edit(words, share, seed=600 + i) for i, words in enumerate(base[:90])), base[3]
    )
    wanted, partners = plain_search(records, train)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 37)
    monkeypatch.setattr(near_duplicates, "_INDEXED", 29)
    similarity, partner = find_most_similar([records], [train], search=Search(threads=threads))
    assert similarity.tolist() == wanted.tolist()
    assert (wanted > 0).sum() >= 44
    found = np.flatnonzero(wanted)
    assert partners[found, partner[found]].all()
    assert (partner[wanted == 0] == -1).all()


class CountedPart:
    """Signatures that count how often a record of them is read."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures
        self.read = np.zeros(len(signatures), int)

    def __len__(self) -> int:
        return len(self._signatures)

    def __getitem__(self, place: slice) -> Signatures:
        self.read[place] += 1
        return self._signatures[place]


def test_training_records_are_read_once_for_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_BLOCK", 16)
    train = sign(*random_words(71, 100, 40))
    parts = {"train": [CountedPart(train[:63]), CountedPart(train[63:])]}
    others = {"valid": [CountedPart(train[:90])], "test": [CountedPart(train[5:95])]}
    result = count_leaks({**parts, **others}, search=Search(threads=2))
    assert (result["valid"], result["test"]) == (90, 90)
    for part in itertools.chain(*parts.values(), *others.values()):
        assert part.read.tolist() == [1] * len(part)


def test_of_many_records_some_evenly_spaced_are_compared() -> None:
    train = sign(*random_words(81, 40, 50))
    other = sign(*random_words(82, 10, 50))
    valid = np.concatenate([train[:10], other])  # the first half are copies
    signatures = {"train": [train], "valid": [valid[:7], valid[7:]], "test": [train[:3]]}
    result = count_leaks(signatures, search=Search(records=6))
    assert result["compared"] == {"train": 40, "valid": 6, "test": 3}
    assert result["out_of"] == {"train": 40, "valid": 20, "test": 3}
    assert (result["valid"], result["test"], result["same"]) == (3, 3, {"valid": 3, "test": 3})
    assert [(pair["record"], pair["train_record"]) for pair in result["examples"][:3]] == [
        (0, 0),
        (3, 3),
        (6, 6),
    ]
    whole = count_leaks(signatures, search=Search(records=20))
    assert whole == count_leaks(signatures)
    assert "out_of" not in whole
    assert whole["valid"] == 10


def test_what_is_done_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_BLOCK", 10)
    monkeypatch.setattr(near_duplicates, "_INDEXED", 4)
    records, told = sign(*random_words(91, 25, 20)), list[float]()
    find_most_similar([records[:8]], [records], search=Search(progress=told.append))
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])


def test_an_error_of_a_thread_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(CountedPart):
        def __getitem__(self, place: slice) -> Signatures:
            if place.start:
                raise OSError("gone")
            return super().__getitem__(place)

    monkeypatch.setattr(near_duplicates, "_BLOCK", 4)
    train = Gone(sign(*random_words(95, 400, 8)))
    with pytest.raises(OSError, match="gone"):
        find_most_similar([sign(random_words(96, 8))], [train], search=Search(threads=2))
    assert train.read.tolist() == [1] * 4 + [0] * 396
