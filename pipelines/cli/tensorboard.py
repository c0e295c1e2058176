"""`charloom tensorboard`: TensorBoard on one workdir or on a folder of several."""

from __future__ import annotations

import os
import socket
import threading

from components.interruption import StopSignal
from model.errors import CharloomError, InputError

_DEPTH = 4
"""How far below a folder to search for workdirs."""


def find_logdir(workdir: str) -> str:
    """Returns the folder for TensorBoard to show.

    Args:
      workdir: a training's folder, or a folder of several.

    Raises:
      InputError: it contains no training's events.
    """
    if not os.path.isdir(workdir):
        raise InputError(f"{workdir} is not a folder; pass the --workdir of a charloom train")
    own = os.path.join(workdir, "tensorboard")
    if os.path.isdir(own):
        return own
    base = workdir.rstrip(os.sep).count(os.sep)
    for folder, names, _ in os.walk(workdir):
        if "tensorboard" in names:
            return workdir
        if folder.count(os.sep) - base >= _DEPTH:
            names.clear()
    raise InputError(
        f"{workdir} contains no training (no folder tensorboard in it or below); pass the "
        "--workdir of a charloom train, or a folder of several"
    )


def serve(logdir: str, *, host: str, port: int) -> None:
    """Runs TensorBoard in this process until Ctrl-C.

    Args:
      logdir: result of `find_logdir`.
      host: name or address to listen on.
      port: 0: any free one.

    Raises:
      InputError: no such host or port.
      CharloomError: it can't listen there.
    """
    from tensorboard import program

    if not 0 <= port < 1 << 16:
        raise InputError(f"--port is {port}; it must be between 0 and {(1 << 16) - 1}")
    try:
        socket.getaddrinfo(host, port)  # TensorBoard would exit
    except (OSError, UnicodeError):
        raise InputError(f"--host is {host!r}, which is not a known host; try localhost") from None
    board = program.TensorBoard()
    # Not the fast loader: it is a separate process, which survives if we are killed.
    board.configure(argv=("", "--load_fast", "false"), logdir=logdir, host=host, port=port)
    try:
        url = board.launch()
    except program.TensorBoardPortInUseError:
        raise CharloomError(
            f"port {port} of {host} is in use; choose another with --port, 0 for any free one"
        ) from None
    except (program.TensorBoardServerException, OSError) as error:
        raise CharloomError(
            f"TensorBoard can't listen on port {port} of {host} ({error})"
        ) from None
    print(f"TensorBoard shows {logdir} at {url} (Ctrl-C stops it)", flush=True)
    try:
        threading.Event().wait()
    except StopSignal:
        raise
    except KeyboardInterrupt:
        print("TensorBoard stopped", flush=True)
