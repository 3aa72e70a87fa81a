"""Start, watch and end the processes that a service consists of.

Two errors, kept apart because they mean different things to a test run:
    ServiceUnavailable   this machine lacks the software; locally a reason to skip
    ServiceFailed        the software is there and did not work; always a failure

Every process is ended by its own pid. `setpriv --pdeathsig` covers the case that nobody is left to do so: the kernel
kills the children when the thread that started them dies, so start a service from the main thread.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"


class ServiceUnavailable(RuntimeError):  # noqa: N818 (reads as the condition it is: `except ServiceUnavailable`)
    """The software that a service needs is not installed; the message says how to install it."""


class ServiceFailed(RuntimeError):  # noqa: N818
    """A service is installed but did not start; the message ends with the tail of its log."""


def require_binaries(names: Sequence[str], *, apt_packages: str, search: Sequence[Path] = ()) -> dict[str, str]:
    """Return the absolute path of every named program, looked up in `search` first, then in PATH and the sbin folders.

    Raises: ServiceUnavailable: one is missing; the message carries the apt command.
    """
    path = os.pathsep.join([*map(str, search), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = {name: shutil.which(name, path=path) for name in names}
    missing = sorted(name for name, location in found.items() if location is None)
    if missing:
        raise ServiceUnavailable(
            f"not installed: {', '.join(missing)}. Run `apt-get install --no-install-recommends {apt_packages}`."
        )
    return {name: location for name, location in found.items() if location is not None}


def free_port() -> int:
    """Return a TCP port that nobody holds on loopback.

    Drawn at random below the ephemeral range (32768 and up), where an outgoing connection of another process could
    take it before the service does.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ServiceFailed("no free TCP port found on 127.0.0.1 between 20000 and 32000 in 100 draws")


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log, or a remark when there is none."""
    if not log.is_file():
        return f"({log.name}: no such log)"
    text = log.read_text(errors="replace").strip().splitlines()
    return f"--- tail of {log} ---\n" + "\n".join(text[-lines:])


def run_step(
    args: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 30.0,
) -> None:
    """Run one start-up command to its end, its output appended to `log`.

    Raises: ServiceFailed: it exited non-zero or ran past `timeout_s` (it is killed then).
    """
    with log.open("ab") as out:
        out.write(f"$ {' '.join(args)}\n".encode())
        out.flush()
        try:
            code = subprocess.run(
                args, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=cwd, timeout=timeout_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise ServiceFailed(f"`{' '.join(args)}` ran past {timeout_s} s\n{tail(log)}") from None
    if code != 0:
        raise ServiceFailed(f"`{' '.join(args)}` exited with {code}\n{tail(log)}")


@contextlib.contextmanager
def background(
    args: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    privileges: Sequence[str] = (),
    stop_signal: signal.Signals = signal.SIGTERM,
    stop_timeout_s: float = 10.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the foreground of its own session for as long as the block lasts, its output in `log`.

    Args:
        privileges: extra `setpriv` options (another user, for example).
        stop_signal: what ends it; SIGKILL follows after `stop_timeout_s`.
    """
    wrapper: list[str] = []
    if setpriv := shutil.which("setpriv"):
        wrapper = [setpriv, "--pdeathsig", stop_signal.name.removeprefix("SIG"), *privileges, "--"]
    elif privileges:
        raise ServiceUnavailable("setpriv is not installed. Run `apt-get install util-linux`.")
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*wrapper, *args],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process, stop_signal, stop_timeout_s)


def stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals, timeout_s: float) -> None:
    """End one child by its pid and reap it; SIGKILL when it does not go within `timeout_s`."""
    if process.poll() is not None:
        return
    process.send_signal(stop_signal)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(
    ready: Callable[[], bool],
    what: str,
    *,
    process: subprocess.Popen[bytes],
    log: Path,
    timeout_s: float,
    every_s: float = 0.05,
) -> None:
    """Poll `ready` until it returns True.

    Raises: ServiceFailed: the process exited, or `timeout_s` passed.
    """
    deadline_s = time.monotonic() + timeout_s
    while not ready():
        if (code := process.poll()) is not None:
            raise ServiceFailed(f"{what}: the process exited with {code}\n{tail(log)}")
        if time.monotonic() > deadline_s:
            raise ServiceFailed(f"{what}: not ready after {timeout_s} s\n{tail(log)}")
        time.sleep(every_s)


def listening_addresses(pid: int) -> set[str]:
    """Return the `address:port` of every TCP socket that a process listens on, read from /proc (IPv4 and IPv6)."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(descriptor.readlink()))
    addresses = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != "0A" or f"socket:[{fields[9]}]" not in inodes:  # 0A is LISTEN
                continue
            words, port = fields[1].split(":")
            # The kernel prints each 32-bit word of the address in host byte order (little endian on x86 and arm64).
            raw = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
            addresses.add(f"{socket.inet_ntop(family, raw)}:{int(port, 16)}")
    return addresses
