"""A real S3 server on loopback: Ceph with one monitor, one in-memory object store and one gateway.

It checks signatures and refuses a wrong secret, which `moto` does not. Objects live in memory and die with it.

pyarrow's own S3 client (25) must run with `AWS_REQUEST_CHECKSUM_CALCULATION=when_required` (`S3Server.environment` has
it): by default it sends a trailing checksum in chunks, which this Ceph (16) answers with HTTP 411. boto3, s3fs,
deltalake and polars work without. The fixture leaves the environment alone on purpose: the product has to see to it.
"""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.process import LOOPBACK, ServiceFailed, background, free_port, require_binaries, run_step, wait_until

__all__ = ["APT_PACKAGES", "S3Server", "start_s3"]

APT_PACKAGES = "radosgw ceph-mon ceph-osd"
_BINARIES = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# The two `update on start` switches: an osd that reports itself before it has the monitor map is refused with 'wrong
# fsid' and exits (seen on one start of two). It has nothing to report: its place in the crush map is set by hand.
# `paxos propose interval`: the default of 1 s is what a start waits for, a dozen times.
_CONFIG = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}/0
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
osd crush chooseleaf type = 0
osd crush update on start = false
osd class update on start = false
osd class load list = *
paxos propose interval = 0.05
run dir = {root}/run
log file = {root}/log/$name.log
err to stderr = true
admin socket = {root}/run/$name.asok
keyring = {root}/keyring
debug mon = 0
debug osd = 0
debug rgw = 1
[mon.a]
mon data = {root}/mon
mon cluster log file = {root}/log/cluster.log
[osd.0]
osd data = {root}/osd
osd journal = {root}/osd/journal
osd objectstore = memstore
memstore device bytes = 4294967296
memstore page set = false
osd max object name len = 460
osd max object namespace len = 64
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw enable usage log = false
rgw num rados handles = 1
rgw thread pool size = 32
rgw cache enabled = true
rgw run sync thread = false
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Server:
    """A running server and the one account on it."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str
    pids: tuple[int, ...]
    """The server's processes."""

    @property
    def environment(self) -> dict[str, str]:
        """AWS_* variables for a client: endpoint, credentials, region, and checksums only where required."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    @property
    def delta_options(self) -> dict[str, str]:
        """`storage_options` of deltalake and polars; a commit is a conditional put, so no lock table is needed."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_ALLOW_HTTP": "true",
            "AWS_CONDITIONAL_PUT": "etag",
        }

    def create_bucket(self, name: str) -> str:
        """Create a bucket (an existing one of ours is left as it is) and return its `s3://name`."""
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()
        return f"s3://{name}"


@contextlib.contextmanager
def start_s3(directory: Path, *, timeout_s: float = 60.0) -> Iterator[S3Server]:
    """Start a server below `directory` (created when absent; data is removed at the end, logs stay) and yield it.

    Args:
        timeout_s: the most that one step of the start may take.
    Raises:
        ServiceUnavailable: Ceph is not installed.
        ServiceFailed: a step failed; the message ends with the tail of its log.
    """
    tool = require_binaries(_BINARIES, apt_packages=APT_PACKAGES)
    root = directory.resolve()
    for name in ("mon", "osd", "run", "log"):
        shutil.rmtree(root / name, ignore_errors=True)  # what a killed run left behind
        (root / name).mkdir(parents=True)
    mon_port, port = free_port(), free_port()
    while port == mon_port:
        port = free_port()
    fsid, access_key, secret_key = str(uuid.uuid4()), "quantfleet", secrets.token_hex(16)
    (root / "ceph.conf").write_text(_CONFIG.format(fsid=fsid, mon_port=mon_port, port=port, root=root))
    env = {**os.environ, "CEPH_CONF": str(root / "ceph.conf"), "TMPDIR": str(root / "run")}
    log = root / "log"

    def step(name: str, *args: str) -> None:
        run_step([tool[name], *args], log / "start.log", env=env, cwd=root, timeout_s=timeout_s)

    def ask_monitor(*args: str) -> None:
        """A command that may be repeated: a monitor still electing itself refuses for a moment ('problem getting command
        descriptions from mon', seen once on a loaded machine).
        """
        for left in range(9, -1, -1):
            try:
                step("ceph", "--connect-timeout", "20", *args)
                break
            except ServiceFailed:
                if not left:
                    raise
                time.sleep(0.5)

    def daemon(name: str, *args: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        # Nothing is worth an orderly shutdown: the data is in memory and the directory is ours.
        command = [tool[name], "-f", *args]
        return background(command, log / f"{name}.out", env=env, cwd=root, stop_signal=signal.SIGKILL)

    with contextlib.ExitStack() as stack:
        for name in ("mon", "osd", "run"):
            stack.callback(shutil.rmtree, root / name, ignore_errors=True)
        keyring, monmap = str(root / "keyring"), str(root / "monmap")
        step("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        caps = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        step("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
        step("ceph-authtool", keyring, "--gen-key", "-n", "client.rgw", *caps)
        step("monmaptool", "--create", "--clobber", "--addv", "a", f"v1:127.0.0.1:{mon_port}/0", "--fsid", fsid, monmap)
        step("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        mon = stack.enter_context(daemon("ceph-mon", "-i", "a"))

        def monitor_listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((LOOPBACK, mon_port)) == 0

        wait_until(monitor_listens, "ceph-mon", process=mon, log=log / "ceph-mon.out", timeout_s=timeout_s)
        osd_uuid = str(uuid.uuid4())
        ask_monitor("osd", "new", osd_uuid)
        ask_monitor("osd", "crush", "add", "0", "1.0", "root=default", f"host={socket.gethostname().split('.')[0]}")
        step("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd_uuid)
        osd = stack.enter_context(daemon("ceph-osd", "-i", "0"))

        def osd_is_up() -> bool:
            args = [tool["ceph"], "--connect-timeout", "5", "osd", "stat", "--format", "json"]
            answer = subprocess.run(args, env=env, cwd=root, capture_output=True, check=False)
            return answer.returncode == 0 and json.loads(answer.stdout)["num_up_osds"] == 1

        wait_until(osd_is_up, "ceph-osd", process=osd, log=log / "ceph-osd.out", timeout_s=timeout_s)
        account = ("--uid=quantfleet", "--display-name=quantfleet", "--access-key", access_key, "--secret", secret_key)
        step("radosgw-admin", "user", "create", *account)
        gateway = stack.enter_context(daemon("radosgw", "-n", "client.rgw"))

        def gateway_answers() -> bool:
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
            try:
                connection.request("GET", "/")
                return connection.getresponse().status < 500
            except OSError:
                return False
            finally:
                connection.close()

        wait_until(gateway_answers, "radosgw", process=gateway, log=log / "radosgw.out", timeout_s=timeout_s)
        yield S3Server(
            endpoint_url=f"http://{LOOPBACK}:{port}",
            access_key=access_key,
            secret_key=secret_key,
            region="us-east-1",
            pids=(mon.pid, osd.pid, gateway.pid),
        )
