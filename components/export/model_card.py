"""The model card: what users should know about a published model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.text.display import markdown


def model_card(report: Mapping[str, Any], *, name: str, checked: Mapping[str, Any]) -> str:
    """Returns a model's card as Markdown.

    Args:
      report: its report, with the verdict.
      name: the model's name.
      checked: results of comparing it with its checkpoint and querying it.
    """
    test, unigram = report["splits"]["test"], report["baseline"]["unigram"]
    config, dataset = report["config"], report["dataset"]
    reasons = "\n".join(f"- {markdown(str(one))}" for one in report["verdict"]["reasons"])
    return f"""# {name}

A language model that reads words and their characters ({config["model"]["inputs"]} inputs, \
char-CNN {config["model"]["char_cnn"]}), made by charloom.

| | |
|---|---|
| test perplexity | {test["perplexity"]:.2f} over {test["words"]:,} words |
| bits per character | {_bits_per_character(test)} |
| unigram baseline on the same words | {unigram["perplexity"]:.2f} |
| champion it was compared with | {_champion(report)} |
| unknown words in the test | {test["unknown_words"]:,} |
| parameters | {report["parameters"]:,} |
| vocabulary | {dataset["vocab_size"]:,} words |
| training words | {dataset["train_words"]:,} |
| checkpoint | step {report["checkpoint"]["step"]:,}, SHA-256 {report["checkpoint"]["digest"]} |
| records | SHA-256 {dataset["digest"]} |
| check before publishing | {checked["words"]:,} held-out words, largest difference to the \
checkpoint {checked["max_difference"]:.2g} nats |
| in a separate process | {checked["latency_ms"]:,.1f} ms for the slowest of \
{checked["requests"]} recorded requests, {checked["memory_mb"]:,.0f} MB at most |

## Verdict: {report["verdict"]["status"]}
{reasons}

## Use
Signatures `score`, `next_word`, `embed`{_and_similar(config)} on raw strings; needs \
`tensorflow` and `tensorflow_text` only. Words outside the vocabulary are read by their characters and \
predicted as `<unk>`. It predicts what is likely in its training text, not what is true.
"""


def _bits_per_character(test: Mapping[str, Any]) -> str:
    bits = test.get("bits_per_character")
    if bits is None:
        return "not available"
    estimated = test.get("characters_estimated", True)
    return f"{bits:.3f}" + (" (estimated: with a space after each word)" if estimated else "")


def _and_similar(config: Mapping[str, Any]) -> str:
    return "" if config["model"]["inputs"] == "words" else ", `similar`"


def _champion(report: Mapping[str, Any]) -> str:
    champion, compared = report.get("champion"), report["verdict"].get("comparison")
    if not champion or not compared:
        return "none"
    return f"version {champion['version']}, perplexity {compared['perplexity_change']:+.2%}"
