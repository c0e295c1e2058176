"""Words/s of our trainer relative to a PyTorch program of the same architecture.

Both sides read the same words of Brown with the same lanes, window, sizes and dropout, on the same
two cores, in alternating blocks while the other waits. PyTorch's program (bench/_torch_model.py) is
fp32 with the full softmax. Ours runs twice: `ratio` is the preset as it is, `ratio_same_loss` has
the same loss and precision.
"""

from __future__ import annotations

import argparse
import os
import tempfile

from bench import _data, _sides
from model.config import to_dict, with_overrides

SAME_LOSS = ["train.softmax=full", "train.precision=float32"]


def main() -> None:
    """Compares, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _data.add_options(parser, preset="small")
    parser.add_argument("--blocks", type=int, default=6, help="blocks per side (default: 6)")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="duration of a block (default: 8)"
    )
    parser.add_argument("--warm-up", type=float, default=10.0, help="warm-up seconds (default: 10)")
    options = parser.parse_args()
    cores = _sides.choose_cores(2)
    _sides.find_torch_python()
    dataset = _data.open_corpus()
    config = _data.read_config(options, dataset)
    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        job = _data.export_job(folder, config=config, dataset=dataset, steps=128, loss="full")
        sides = [_sides.torch_side(job, cores=cores)]
        try:
            for name, settings in (("preset", []), ("same loss", SAME_LOSS)):
                ours = {
                    "config": to_dict(with_overrides(config, settings)) | _data.VERSION,
                    "records": dataset.path,
                    "threads": len(cores),
                }
                path = _data.write_job(os.path.join(folder, f"{name}.json".replace(" ", "-")), ours)
                sides.append(_sides.our_side(path, cores=cores, name=name))
            _sides.warm_up(sides, seconds=options.warm_up)
            speeds = _sides.interleave(sides, blocks=options.blocks, seconds=options.seconds)
        finally:
            for side in sides:
                side.close()
    torch, preset, same = (_sides.median(speeds[side.name]) for side in sides)
    _sides.print_result(
        ratio=round(preset / torch, 3),
        ratio_same_loss=round(same / torch, 3),
        words_per_second=preset,
        words_per_second_same_loss=same,
        words_per_second_torch=torch,
        preset=options.preset,
        lanes=config.train.lanes,
        window=config.train.window,
        vocabulary=len(dataset.vocab),
        blocks={name: [round(speed) for speed in of_side] for name, of_side in speeds.items()},
    )


if __name__ == "__main__":
    _sides.run_main(main)
