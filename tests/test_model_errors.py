"""ENDINGS: the order of precedence, the way from codes to endings, and the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import (
    ENDINGS,
    EXIT_SIGNALLED,
    CharloomError,
    Ending,
    InputError,
    KilledError,
    OrphanedError,
    RejectedError,
    Restart,
    RestartableError,
    StoppedError,
    ending_for,
    ending_of,
)
from pipelines.cli.main import build_parser

DOCS = Path(__file__).resolve().parent.parent / "docs" / "exit-codes.md"


class _DamagedError(InputError):
    """A class that stands in no row."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CharloomError("x"), 1),
        (InputError("x"), 2),
        (_DamagedError("x"), 2),
        (RejectedError("x"), 3),
        (RestartableError("x"), 75),
        (StoppedError("x"), 75),
        (OrphanedError("x"), 78),
    ],
)
def test_an_error_has_the_code_of_its_nearest_class(error: CharloomError, code: int) -> None:
    assert error.exit_code == ending_for(error).code == code


def test_defects_fail_and_ctrl_c_has_its_own_code() -> None:
    assert ending_for(ZeroDivisionError()).code == 1
    assert ending_for(KeyboardInterrupt()).code == 130


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, CharloomError),
        (2, InputError),
        (3, CharloomError),  # no worker is rejected
        (75, RestartableError),
        (78, OrphanedError),
        (120, CharloomError),
        (128, KilledError),
        (130, KilledError),  # of a worker: SIGINT
        (137, KilledError),
        (-1, KilledError),
        (-9, KilledError),
    ],
)
def test_a_worker_of_which_only_the_code_is_known(code: int, kind: type[CharloomError]) -> None:
    assert ending_of(code).error is kind


def test_what_a_restart_would_not_mend_comes_first() -> None:
    order = [ending.error for ending in ENDINGS if ending.worker]
    assert order == [
        InputError,
        OrphanedError,
        CharloomError,
        StoppedError,
        KilledError,
        RestartableError,
    ]
    kinds = [ending.local for ending in ENDINGS if ending.worker]
    assert kinds == sorted(kinds, key=lambda kind: kind is not Restart.NEVER)


def test_jobset_has_a_rule_for_each_end_that_is_final_on_a_cluster() -> None:
    final = [one for one in ENDINGS if one.worker and one.cluster is Restart.NEVER]
    assert [one for one in ENDINGS if one.rule] == final


def test_the_help_lists_what_a_command_ends_with() -> None:
    assert build_parser().epilog == (
        "exit codes: 0 done, 1 failed, 2 bad input, 3 rejected by the gate or a drift limit, "
        "75 interrupted by SIGTERM or SIGHUP, or by losing workers too often, 130 stopped by Ctrl-C; after 75 "
        "and 130 the same command continues a training"
    )


def test_the_documentation_has_the_same_table() -> None:
    lines = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert lines[2:] == [_row(ending) for ending in ENDINGS]


def _row(ending: Ending) -> str:
    code = f"{ending.code} and above" if ending.code == EXIT_SIGNALLED else str(ending.code)
    restarts = (ending.local.value, ending.cluster.value) if ending.worker else ("", "")
    cells = (code, ending.command, ending.worker, *restarts)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
