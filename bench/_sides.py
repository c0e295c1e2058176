"""The compared programs: each is a separate process that answers lines of JSON."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench._data import ROOT, say
from model.errors import InputError

WARM_UP_STEPS = 10
TICKS = os.sysconf("SC_CLK_TCK")


class Side:
    """A running program that blocks on its input until it gets a command."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        cores: Sequence[int],
        environment: Mapping[str, str] | None = None,
    ):
        """Starts the program; call `wait` before the first command.

        Args:
          name: for messages.
          command: program and arguments.
          cores: cores that it may use.
          environment: added to ours.
        """
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )

    def wait(self) -> dict[str, Any]:
        """Returns the next answer.

        Raises:
          InputError: the program ended without an answer.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may also print
                answer: dict[str, Any] = json.loads(line)
                return answer
        code = self._process.wait()
        raise InputError(f"{self.name} ended with exit code {code}; its message is above")

    def send(self, **command: Any) -> None:
        """Sends a command without waiting for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Sends a command and returns the answer."""
        self.send(**command)
        return self.wait()

    def cpu_seconds(self) -> float:
        """Returns the processor time that the program has used."""
        with open(f"/proc/{self._process.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def hang_up(self) -> None:
        """Closes the program's input, which ends it; does not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """Ends the program."""
        self.hang_up()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Group:
    """Workers of one group, commanded together; they must run the same number of steps."""

    def __init__(self, name: str, workers: Sequence[Side]):
        """Takes workers started with each other's addresses."""
        self.name = name
        self._workers = list(workers)
        self._step_seconds = 0.0

    def wait(self) -> dict[str, Any]:
        """Returns the answer of the slowest worker, once all have answered."""
        answers = [worker.wait() for worker in self._workers]
        return max(answers, key=lambda answer: answer.get("seconds", 0.0))

    def ask(self, **command: Any) -> dict[str, Any]:
        """Commands all; `seconds` is converted to the steps that took that long last time."""
        if "seconds" in command:
            steps = command.pop("seconds") / self._step_seconds if self._step_seconds else 10
            command["steps"] = max(1, round(steps))
        for worker in self._workers:
            worker.send(**command)
        answer = self.wait()
        if "steps" in answer:
            self._step_seconds = answer["seconds"] / answer["steps"]
        return answer

    def cpu_seconds(self) -> float:
        """Returns the processor time that the workers have used."""
        return sum(worker.cpu_seconds() for worker in self._workers)

    def close(self) -> None:
        """Ends the workers; signals all before waiting for any."""
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.close()


def our_side(
    job: str, *, cores: Sequence[int], name: str = "charloom", tf_config: str = ""
) -> Side:
    """Starts our trainer on a job of `write_job`."""
    environment = {"TF_CONFIG": tf_config} if tf_config else None
    command = [sys.executable, "-m", "bench._our_side", "--job", job]
    return Side(name, command, cores=cores, environment=environment)


def torch_side(job: str, *, cores: Sequence[int], name: str = "PyTorch") -> Side:
    """Starts the PyTorch program on a job of `export_job`.

    Raises:
      InputError: PyTorch is not installed.
    """
    program = os.path.join(ROOT, "bench", "_torch_model.py")
    return Side(name, [find_torch_python(), program, "--job", job], cores=cores)


def find_torch_python() -> str:
    """Returns a Python that has PyTorch.

    Raises:
      InputError: there is none.
    """
    if importlib.util.find_spec("torch"):
        return sys.executable
    named = os.environ.get("CHARLOOM_TORCH_PYTHON", "")
    if named and not subprocess.call([named, "-c", "import torch"], stderr=subprocess.DEVNULL):
        return named
    if named:
        raise InputError(f"CHARLOOM_TORCH_PYTHON is {named}, which has no torch; install it there")
    raise InputError(
        "PyTorch is missing; install it: .venv/bin/pip install -e .[bench], or set "
        "CHARLOOM_TORCH_PYTHON to a Python that has it"
    )


def choose_cores(count: int) -> list[int]:
    """Returns the first cores that this process may use.

    Raises:
      InputError: there are fewer.
    """
    cores = sorted(os.sched_getaffinity(0))[:count]
    if len(cores) < count:
        raise InputError(f"this needs {count} cores and may use {len(cores)}; run it elsewhere")
    return cores


def foreign_share(sides: Sequence[Side | Group], work: Callable[[], Any]) -> tuple[Any, float]:
    """Runs `work`; returns its result and the cores that other programs kept busy meanwhile."""
    before, own = _busy_seconds(), sum(side.cpu_seconds() for side in sides)
    result = work()
    after, now = _busy_seconds(), sum(side.cpu_seconds() for side in sides)
    seconds = after[1] - before[1]
    return result, max(0.0, (after[0] - before[0] - (now - own)) / max(seconds, 1e-9))


def _busy_seconds() -> tuple[float, float]:
    """Returns the processor time of all processes, and the time, both in seconds."""
    with open("/proc/stat", encoding="utf-8") as file:
        user, nice, system, *_ = (int(field) for field in file.readline().split()[1:])
    with open("/proc/uptime", encoding="utf-8") as file:
        return (user + nice + system) / TICKS, float(file.readline().split()[0])


def warm_up(sides: Sequence[Side | Group], *, seconds: float) -> None:
    """Prepares sides for measuring, one after the other.

    Some steps come first: a step with a new batch shape triggers a compilation, so the time alone
    might be used up before the second one.
    """
    for side in sides:
        side.wait()
        say(f"{side.name}: ready, warming up for {WARM_UP_STEPS} steps and {seconds:g} s")
        side.ask(do="train", steps=WARM_UP_STEPS)
        side.ask(do="train", seconds=seconds)


def interleave(
    sides: Sequence[Side | Group],
    *,
    blocks: int,
    seconds: float,
    done: Callable[[str, dict[str, Any]], None] = lambda name, answer: None,
) -> dict[str, list[float]]:
    """Measures words/s of sides in turn (A B A B ...) while the others are blocked.

    Args:
      sides: all ready and warm.
      blocks: number of blocks per side.
      seconds: minimum duration of a block.
      done: called with a side's name and answer after each block.

    Returns:
      Words/s of the blocks, by the side's name.
    """
    speeds: dict[str, list[float]] = {side.name: [] for side in sides}
    for block in range(blocks):
        for side in sides:
            waiting = [other for other in sides if other is not side]
            idle = sum(other.cpu_seconds() for other in waiting)
            train = functools.partial(side.ask, do="train", seconds=seconds)
            answer, foreign = foreign_share(sides, train)
            idle = sum(other.cpu_seconds() for other in waiting) - idle
            done(side.name, answer)
            speed = answer["words"] / answer["seconds"]
            speeds[side.name].append(speed)
            say(f"block {block + 1} of {blocks}: {side.name} {speed:.0f} words/s")
            if idle > 0.02 * answer["seconds"]:
                say(f"warning: waiting programs used {idle:.1f} s of processor time meanwhile")
            if foreign > 0.2:
                say(f"warning: other programs kept {foreign:.1f} cores busy meanwhile")
    return speeds


def median(values: Sequence[float]) -> float:
    """Returns the median, to five significant digits."""
    return float(f"{statistics.median(values):.5g}")


def print_result(**figures: Any) -> None:
    """Prints the figures and the machine as the last line."""
    figures["machine"] = f"{_processor()}, {len(os.sched_getaffinity(0))} cores"
    print(json.dumps(figures), flush=True)


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def run_main(main: Callable[[], None]) -> None:
    """Runs a script; user errors are shown in one line."""
    try:
        main()
    except InputError as error:
        sys.exit(f"bench: {error}")
