"""The commands that query a published model: score, embed, next, similar."""

from __future__ import annotations

import argparse
from typing import Any

from components.quiet_tensorflow import import_tensorflow
from pipelines.cli import flags
from pipelines.cli.shared import Add
from pipelines.cli.streams import IS_PRODUCT


def add_commands(add: Add, commands: Any) -> None:
    """Adds the commands; `add` creates a command's parser."""
    score = add(commands, "score", _query, "Print log-likelihood and perplexity of texts.")
    score.add_argument(
        "--format",
        choices=("tsv", "jsonl"),
        default="tsv",
        help="jsonl includes every word's score",
    )
    embed = add(commands, "embed", _query, "Print every word's LSTM states as JSON lines.")
    following = add(commands, "next", _query, "Print the likeliest next words of a text.")
    following.add_argument("-k", type=int, default=5, help="number of words (default: 5)")
    similar = add(commands, "similar", _query, "Print known words with similar spellings.")
    similar.add_argument("-k", type=int, default=5, help="number of words (default: 5)")
    verbs = {"score": score, "embed": embed, "next": following, "similar": similar}
    for verb, parser in verbs.items():
        flags.add_query(parser, verb)
        parser.set_defaults(**{IS_PRODUCT: True})


def _query(options: argparse.Namespace) -> None:
    from components.export.registry import find_model

    path = find_model(options.model)
    import_tensorflow()
    from pipelines.cli import query

    model = query.load(path)
    if options.verb == "next":
        query.print_next_words(model, options.text, k=options.k)
        return
    if options.verb == "similar":
        query.print_similar(model, options.text, k=options.k)
        return
    texts = query.read_texts(options.text, options.input)
    if options.verb == "score":
        query.print_scores(model, texts, form=options.format)
    else:
        query.print_embeddings(model, texts)
