"""Words/s of two workers on one core each relative to one worker on one core.

Each worker has the preset's lanes, so the group of two trains on twice the words per step; all are
real processes of MultiWorkerMirroredStrategy over the loopback device. The group and the single
worker run in turn while the other waits. Bytes are those counted by the loopback device during the
group's blocks.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
import tempfile
from typing import Any

from bench import _data, _sides
from model.config import Config, to_dict
from model.distributed.tf_config import format_tf_config


def main() -> None:
    """Compares, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _data.add_options(parser, preset="small")
    parser.add_argument("--blocks", type=int, default=6, help="blocks per side (default: 6)")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="duration of a block (default: 8)"
    )
    options = parser.parse_args()
    cores = _sides.choose_cores(2)
    dataset = _data.open_corpus()
    config = _data.read_config(options, dataset)
    doubled = dataclasses.replace(
        config, train=dataclasses.replace(config.train, lanes=2 * config.train.lanes)
    )
    moved = {"bytes": 0, "steps": 0}

    def count(name: str, answer: dict[str, Any]) -> None:
        """Adds the loopback traffic since the last call to the side that caused it."""
        sent = _loopback_bytes()
        if name == "two workers":
            moved["bytes"] += sent - moved["seen"]
            moved["steps"] += int(answer["steps"])
        moved["seen"] = sent

    with tempfile.TemporaryDirectory(prefix="charloom-bench-") as folder:
        one = _sides.our_side(
            _write(folder, "one", config, dataset.path), cores=cores[:1], name="one worker"
        )
        hosts, path = _free_hosts(2), _write(folder, "two", doubled, dataset.path)
        group = _sides.Group(
            "two workers",
            [
                _sides.our_side(
                    path,
                    cores=[core],
                    name=f"worker {index}",
                    tf_config=format_tf_config(hosts, index),
                )
                for index, core in enumerate(cores)
            ],
        )
        sides: list[_sides.Side | _sides.Group] = [one, group]
        try:
            _sides.warm_up(sides, seconds=5.0)
            moved["seen"] = _loopback_bytes()
            speeds = _sides.interleave(
                sides, blocks=options.blocks, seconds=options.seconds, done=count
            )
        finally:
            for side in sides:
                side.close()
    one_speed, two_speed = (_sides.median(speeds[side.name]) for side in sides)
    _sides.print_result(
        ratio=round(two_speed / one_speed, 3),
        words_per_second_one=one_speed,
        words_per_second_two=two_speed,
        bytes_per_step_and_worker=round(moved["bytes"] / moved["steps"] / 2),
        lanes_per_worker=config.train.lanes,
        window=config.train.window,
        preset=options.preset,
        vocabulary=len(dataset.vocab),
        blocks={name: [round(speed) for speed in of_side] for name, of_side in speeds.items()},
    )


def _write(folder: str, name: str, config: Config, records: str) -> str:
    job = {"config": to_dict(config) | _data.VERSION, "records": records, "threads": 1}
    return _data.write_job(os.path.join(folder, f"{name}.json"), job)


def _free_hosts(count: int) -> list[str]:
    """Returns loopback addresses with currently free ports."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    hosts = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return hosts


def _loopback_bytes() -> int:
    """Returns the bytes that the loopback device has sent."""
    with open("/proc/net/dev", encoding="utf-8") as file:
        for line in file:
            name, _, fields = line.partition(":")
            if name.strip() == "lo":
                return int(fields.split()[8])
    return 0


if __name__ == "__main__":
    _sides.run_main(main)
