"""Real worker processes that are killed, and what a second start makes of it.

test_drills_training.py has what the launcher does about it by itself.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from worker_processes import wait_for, worker_pids

from components.preprocess.main import run as prepare
from components.train import main
from components.train.local import launcher
from components.train.local.launcher import launch_local
from components.train.local.private_network import PrivateNetwork
from components.train.local.worker_group import WorkerGroup, log_path
from components.train.main import ProgressBar, run
from components.train.training_job import TrainingJob
from model.checkpointing.checkpoints import list_checkpoints
from model.config import read_config, to_json, with_overrides
from model.errors import CharloomError, InputError, RestartableError
from model.metrics import read_metrics
from model.presets import tiny

STEPS = 800
"""So many that a training is still on when it is disturbed."""


def start_training(records: str, workdir: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli.main", "train", "--records", records]
        + ["--workdir", str(workdir), "--workers", "2", "--preset", "tiny"]
        + ["--set", f"train.steps={STEPS}", "--set", "train.valid_steps=400", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.extra
def test_a_killed_worker_ends_the_group_and_the_same_command_goes_on(
    tiny_records: str, tmp_path: Path
) -> None:
    workdir = tmp_path / "workdir"
    process = start_training(tiny_records, workdir, "--max-restarts", "0")
    wait_for(lambda: len(list_checkpoints(str(workdir))) >= 2, "two checkpoints")
    os.kill(worker_pids(workdir)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75
    assert errors.strip().splitlines()[-1] == (
        "charloom: worker 1 was ended by SIGKILL; continue from the newest checkpoint with: "
        f"charloom train --records {tiny_records} --workdir {workdir} "
        f"--config {workdir}/config.json --workers 2 --max-restarts 0"
    )
    assert not worker_pids(workdir)
    assert not (workdir / "COMPLETED").exists()

    newest = list_checkpoints(str(workdir))[0]
    (Path(newest) / "arrays.npz").write_bytes(b"cut short")
    process = start_training(tiny_records, workdir)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    whole = list_checkpoints_before(newest)
    assert f"continuing from step {whole} (" in output
    assert f"checkpoint {newest} is not whole (arrays.npz is cut short or damaged)" in errors
    assert (workdir / "COMPLETED").read_text() == f"{STEPS}\n"
    steps = [row["step"] for row in read_metrics(str(workdir)) if "loss" in row]
    assert steps == list(range(10, STEPS + 1, 10))  # none twice, none missing
    for rank in range(2):
        assert f"worker {rank}: rank {rank} of 2" in Path(log_path(str(workdir), rank)).read_text()


def list_checkpoints_before(path: str) -> int:
    """Returns the step before that of a checkpoint: tiny saves one every 20 steps."""
    return int(path[-8:]) - 20


def interfaces_of(processes: Iterable[int]) -> list[list[str]]:
    """Returns the network interfaces that each process sees."""
    tables = [Path(f"/proc/{process}/net/dev").read_text() for process in processes]
    return [re.findall(r"^ *(\w+):", table, flags=re.MULTILINE) for table in tables]


@pytest.mark.slow
def test_a_second_training_is_kept_out_and_ctrl_c_ends_all_workers(
    tiny_records: str, tmp_path: Path
) -> None:
    workdir = tmp_path / "workdir"
    process = start_training(tiny_records, workdir)
    wait_for(lambda: list_checkpoints(str(workdir)), "a checkpoint")
    with PrivateNetwork() as network:
        if not network.problem:  # the system allows one
            assert interfaces_of(worker_pids(workdir).values()) == [["lo"]] * 2
    config = with_overrides(tiny(), [f"train.steps={STEPS}"])
    with pytest.raises(InputError, match=f"another training is running in workdir {workdir}"):
        run(TrainingJob(records=tiny_records, workdir=str(workdir), workers=2), config)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    newest = int(list_checkpoints(str(workdir))[0][-8:])
    assert errors.strip().splitlines()[-1] == (
        f"charloom: stopped by SIGINT; continue from step {newest} with: charloom train --records "
        f"{tiny_records} --workdir {workdir} --config {workdir}/config.json --workers 2"
    )
    log = Path(log_path(str(workdir), 0)).read_text()
    assert f"checkpoint {workdir}/checkpoints/step-{newest:08d}" in log.splitlines()[-1]
    assert not worker_pids(workdir)


@pytest.mark.slow
def test_workers_end_when_their_launcher_is_killed(tiny_records: str, tmp_path: Path) -> None:
    workdir = tmp_path / "workdir"
    process = start_training(tiny_records, workdir)
    wait_for(lambda: len(worker_pids(workdir)) == 2, "both workers")  # they only begin to start
    process.kill()
    process.communicate(timeout=300)
    wait_for(lambda: not worker_pids(workdir), "the workers' end")


def test_the_command_does_without_tensorflow(
    tiny_records: str, tiny_training: str, tmp_path: Path
) -> None:
    workdir = shutil.copytree(tiny_training, tmp_path / "workdir")
    arguments = ["train", "--records", tiny_records, "--workdir", str(workdir)]
    arguments += ["--config", str(workdir / "config.json")]
    program = (
        f"import sys; from pipelines.cli.main import main; code = main({arguments}); "
        "print(code, sorted({'tensorflow', 'keras'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[0].startswith(f"{workdir} is already trained to step")
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_a_worker_s_bad_input_reaches_the_launcher(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone is not a records folder"):
        launch_local(_make_job(tmp_path, str(tmp_path / "gone")))


def test_the_command_that_goes_on_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_records: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launcher, "WorkerGroup", _StoppingGroup)
    monkeypatch.setattr(main, "begin", lambda *args, **options: None)
    with pytest.raises(RestartableError) as raised:
        run(
            TrainingJob(
                records=tiny_records,
                workdir="work",
                warm_start="registry/my lm/3",
                stall_seconds=12.5,
            ),
            tiny(),
        )
    how = str(raised.value).split(" with: ")[1]
    assert shlex.split(how) == [
        *("charloom", "train", "--records", tiny_records, "--workdir", f"{tmp_path}/work"),
        *("--config", f"{tmp_path}/work/config.json", "--workers", "1"),
        *("--warm-start", f"{tmp_path}/registry/my lm/3", "--stall-seconds", "12.5"),
    ]


class _StoppingGroup(WorkerGroup):
    """Workers that start nothing; the first thing that happens is SIGTERM."""

    def __enter__(self) -> _StoppingGroup:
        signal.raise_signal(signal.SIGTERM)
        return self

    @property
    def finished(self) -> bool:
        return False


def test_a_worker_s_crash_names_its_log(tmp_path: Path, tiny_records: str) -> None:
    job = _make_job(tmp_path, tiny_records)
    (tmp_path / "workdir" / "metrics.jsonl").mkdir()  # a folder where a file belongs
    with pytest.raises(CharloomError) as caught:
        launch_local(job)
    log = log_path(job.workdir, 0)
    assert str(caught.value) == (
        f"training failed (worker 0 with code 1); the reason is at the end of {log}"
    )
    assert "IsADirectoryError" in Path(log).read_text()


def _make_job(folder: Path, records: str) -> TrainingJob:
    """Makes a workdir as the launcher finds it."""
    job = TrainingJob(records=records, workdir=str(folder / "workdir"))
    os.mkdir(job.workdir)
    Path(job.config_file).write_text(to_json(tiny()))
    return job


def test_bad_workdirs(tiny_records: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "lost+found").mkdir()  # of a disk
    for name, message in (
        ("taken", "already contains something other than a training (thesis.tex); choose another"),
        ("file", "can't be used (File exists); choose another"),
    ):
        with pytest.raises(InputError) as caught:
            run(TrainingJob(records=tiny_records, workdir=str(tmp_path / name)), tiny())
        assert str(caught.value) == f"workdir {tmp_path / name} {message}"
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "precious"
    assert sorted(os.listdir(tmp_path / "taken")) == ["lost+found", "thesis.tex"]


def test_a_workdir_without_locks_is_not_said_to_be_in_use(
    tiny_records: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=rf"files in {tmp_path}/w can't be locked \(No locks"):
        run(TrainingJob(records=tiny_records, workdir=str(tmp_path / "w")), tiny())


def test_lanes_that_workers_cannot_share(tiny_records: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"train.lanes is 4, which is not divisible by 3 workers.*train.lanes=3$"
    ):
        run(TrainingJob(records=tiny_records, workdir=str(tmp_path / "w"), workers=3), tiny())
    assert not (tmp_path / "w").exists()


def test_too_few_words_for_a_batch(tiny_records: str, tmp_path: Path) -> None:
    config = with_overrides(tiny(), ["train.lanes=256", "train.window=64"])
    with pytest.raises(InputError, match=r"one batch needs 16384 .*lower train.lanes or"):
        run(TrainingJob(records=tiny_records, workdir=str(tmp_path / "w")), config)
    assert not (tmp_path / "w").exists()


def test_a_finished_workdir_is_not_taken_for_other_records(
    tiny_training: str, tiny_records: str, tmp_path: Path
) -> None:
    settings = ["train.steps=200", "train.valid_steps=50", "train.checkpoint_steps=50"]
    config = with_overrides(tiny(), settings)
    assert run(TrainingJob(records=tiny_records, workdir=tiny_training), config)["step"] <= 200
    changed = tmp_path / "corpus"
    changed.mkdir()
    for path in (Path(__file__).parent / "data" / "corpus").iterdir():
        (changed / path.name).write_text(path.read_text() + "One more line.\n")
    other = str(tmp_path / "records")
    prepare(inputs=[str(changed)], records=other, config=tiny().data)
    with pytest.raises(InputError, match=r"was trained on other records than .*records; choose"):
        run(TrainingJob(records=other, workdir=tiny_training), config)


def test_fewer_steps_than_are_done(tiny_training: str, tiny_records: str) -> None:
    with pytest.raises(InputError, match=r"already trained to step 200, beyond train.steps=30"):
        run(
            TrainingJob(records=tiny_records, workdir=tiny_training),
            with_overrides(tiny(), ["train.steps=30"]),
        )
    assert read_config(os.path.join(tiny_training, "config.json")).train.steps == 200


def test_a_resumed_run_shows_new_steps_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"steps": 40, "loss": 1.0, "words_per_second": 5.0, "seconds_left": 0.0}
    bar = ProgressBar(str(tmp_path), steps=40, done=20)
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in (10, 20, 30):
            file.write(json.dumps({"step": step, **row}) + "\n")
    bar.update()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 30/40  loss 1.0000  ppl 2.7  5 words/s  0:00 left"]
