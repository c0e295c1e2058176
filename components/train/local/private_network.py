"""A network for the workers on this machine that nobody else reaches: a Linux network namespace.

TensorFlow's servers listen on all interfaces, and read and write files for whoever calls them. In a
namespace with nothing but loopback only the other workers can call. A process holds the namespace
open; each worker enters it, then becomes the worker. Both run this file as a program, alone, so it
imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

_CLONE_NEWUSER = 0x10000000  # from <linux/sched.h>
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914  # from <linux/sockios.h>
_IFF_UP = 1
_INTERFACE = struct.Struct("16sh14x")
"""struct ifreq of <linux/if.h>: a name and flags."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class PrivateNetwork:
    """A network namespace, for the duration of the context."""

    problem = ""
    """Why this system has none; then commands are run as they are."""

    def __enter__(self) -> PrivateNetwork:
        self._holder = subprocess.Popen(
            [*_program(), "hold"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # Ctrl-C is for the launcher
        )
        assert self._holder.stdout
        said = self._holder.stdout.readline().strip()
        if said != "ready":
            self.problem = said or "it could not be created"
        else:
            entered = subprocess.run(
                self.command([sys.executable, "-I", "-S", "-c", ""]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            self.problem = entered.stdout.strip()
        return self

    def __exit__(self, *unused: object) -> None:
        self._holder.communicate()  # it ends with its input

    def command(self, command: Sequence[str]) -> list[str]:
        """Returns the command that runs another one inside."""
        if self.problem:
            return list(command)
        return [*_program(), "enter", str(self._holder.pid), *command]


def _program() -> list[str]:
    return [sys.executable, "-I", "-S", os.path.abspath(__file__)]


def _call(name: str, *arguments: int) -> None:
    """Calls a function of the C library.

    Raises:
      OSError: it failed.
    """
    if getattr(_LIBC, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _hold() -> None:
    """Creates the namespace and keeps it until the input ends."""
    try:
        _call("unshare", _CLONE_NEWNET)
    except OSError:  # allowed to root alone, but everyone may be root in a namespace of users
        own = (("uid", os.geteuid()), ("gid", os.getegid()))
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
        _write("/proc/self/setgroups", "deny")
        for name, number in own:
            _write(f"/proc/self/{name}_map", f"{number} {number} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _INTERFACE.pack(b"lo", 0))
        name, flags = _INTERFACE.unpack(request)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE.pack(name, flags | _IFF_UP))
    print("ready", flush=True)
    sys.stdin.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _enter(holder: str, command: list[str]) -> None:
    """Enters the holder's namespace and becomes the command."""
    for kind, flag in (("user", _CLONE_NEWUSER), ("net", _CLONE_NEWNET)):
        if not os.path.samefile(f"/proc/{holder}/ns/{kind}", f"/proc/self/ns/{kind}"):
            with open(f"/proc/{holder}/ns/{kind}", "rb") as namespace:
                _call("setns", namespace.fileno(), flag)
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        if sys.argv[1] == "hold":
            _hold()
        else:
            _enter(sys.argv[2], sys.argv[3:])
    except AttributeError:
        sys.exit(f"{sys.platform} has no network namespaces")
    except OSError as error:
        sys.exit(f"no network namespace is allowed here ({error.strerror})")
