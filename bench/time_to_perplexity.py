"""Seconds of training to a validation perplexity on Brown, ours relative to PyTorch's.

PyTorch's program has the same sizes, lanes, window, dropout, clipping, optimizer, rates and words
in the same order; its loss is `AdaptiveLogSoftmaxWithLoss`. Perplexity is over all V words on both
sides (the adaptive softmax is one distribution over them, too). Each side runs alone, on the same
two cores. Only training is timed: validation, building the model and compiling are excluded on both
sides, so the first steps count at the speed of the following ones.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from typing import Any

from bench import _data, _sides
from bench._sides import WARM_UP_STEPS
from model.config import to_dict, with_overrides
from model.presets import PRESETS

SIZES = (
    "model.lstm_dim=300",
    "model.input_dropout=0.3",
    "model.hidden_dropout=0.3",
    "model.output_dropout=0.3",
    "model.recurrent_dropout=0",
)
"""For both sides: a smaller LSTM than the preset's, and dropout for a short training."""


def main() -> None:
    """Runs both sides, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _data.add_options(parser, preset="brown" if "brown" in PRESETS else "small")
    parser.add_argument("--ours", nargs="*", default=[], metavar="FIELD=VALUE",
                        help="settings for our side only")  # fmt: skip
    parser.add_argument("--target", type=float, default=300.0, help="perplexity (default: 300)")
    parser.add_argument("--limit-seconds", type=float, default=420.0, help="default: 420")
    parser.add_argument("--every", type=int, default=60, help="steps between validations")
    parser.add_argument("--valid-words", type=int, default=50_000, help="0: all (default: 50000)")
    parser.add_argument("--cutoffs", type=int, nargs="*", default=[2000, 8000],
                        help="cutoffs of the adaptive softmax (default: 2000 8000)")  # fmt: skip
    parser.add_argument("--side", choices=("both", "ours", "torch"), default="both")
    options = parser.parse_args()
    options.set = [*SIZES, *options.set]
    if options.every <= WARM_UP_STEPS:
        parser.error(f"--every must be more than {WARM_UP_STEPS}")
    cores = _sides.choose_cores(2)
    if options.side != "ours":
        _sides.find_torch_python()
    dataset = _data.open_corpus(vocab="given")
    config = _data.read_config(options, dataset)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        if options.side != "torch":
            ours = {
                "config": to_dict(with_overrides(config, options.ours)) | _data.VERSION,
                "records": dataset.path,
                "threads": len(cores),
                "valid_words": options.valid_words,
            }
            path = _data.write_job(os.path.join(folder, "ours.json"), ours)
            results["ours"] = _run(_sides.our_side(path, cores=cores), options)
        if options.side != "ours":
            _data.say("writing the words of PyTorch's steps to a file")
            path = _data.export_job(
                folder,
                config=config,
                dataset=dataset,
                steps=config.train.steps,
                loss="adaptive",
                cutoffs=tuple(cut for cut in options.cutoffs if cut < len(dataset.vocab)),
                valid_words=options.valid_words,
            )
            results["torch"] = _run(_sides.torch_side(path, cores=cores), options)
    ours_seconds, torch_seconds = (
        results.get(name, {}).get("seconds") for name in ("ours", "torch")
    )
    both = isinstance(ours_seconds, float) and isinstance(torch_seconds, float)
    at_most = isinstance(ours_seconds, float) and torch_seconds == "not reached"
    # A side that did not reach the target needs longer than the limit, so this bounds the ratio.
    divisor = torch_seconds if both else options.limit_seconds
    _sides.print_result(
        ratio=round(ours_seconds / divisor, 3) if both or at_most else None,
        ratio_is_upper_bound=at_most,
        target=options.target,
        preset=options.preset,
        vocabulary=len(dataset.vocab),
        **results,
    )


def _run(side: _sides.Side, options: argparse.Namespace) -> dict[str, Any]:
    """Trains one side until it reaches the target or the limit."""
    try:
        side.wait()
        compiling = side.ask(do="train", steps=WARM_UP_STEPS)
        seconds, steps, words, curve = 0.0, 0, 0, []
        while True:
            answer = side.ask(do="train", steps=options.every - (0 if steps else WARM_UP_STEPS))
            step_seconds = answer["seconds"] / answer["steps"]
            seconds += step_seconds * options.every
            steps += options.every
            words += options.every * compiling["words"] // WARM_UP_STEPS
            scored = side.ask(do="evaluate")
            perplexity = math.exp(min(50.0, scored["loss"] / scored["words"]))
            curve.append([steps, round(seconds, 1), round(perplexity, 1)])
            _data.say(
                f"{side.name}: step {steps}, {seconds:.0f} s, perplexity {perplexity:.1f} "
                f"on {scored['words']:.0f} words, {words / seconds:.0f} words/s"
            )
            if perplexity <= options.target or seconds >= options.limit_seconds:
                break
    finally:
        side.close()
    return {
        "seconds": round(seconds, 1) if perplexity <= options.target else "not reached",
        "perplexity": round(perplexity, 1),
        "steps": steps,
        "words_per_second": round(words / seconds),
        "curve": curve,
    }


if __name__ == "__main__":
    _sides.run_main(main)
