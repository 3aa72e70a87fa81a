"""Submit a job's module to a running Ray cluster and follow it to its end."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from quantfleet.cluster.dashboard import job_page
from quantfleet.cluster.session import ClusterError
from quantfleet.errors import TrainingError

__all__ = ["SOURCE_ROOTS", "submit_job"]

SOURCE_ROOTS = "platform:models:data_pipelines:jobs"
"""PYTHONPATH of a working_dir that holds the source; it goes before an installed wheel."""
_EXCLUDES = [".git", ".venv", ".quantfleet", "dist", "**/__pycache__"]


def submit_job(module: str, arguments: Sequence[str], *, address: str, working_dir: Path) -> str:
    """Run `python -m MODULE ARGUMENTS` on the cluster, print its page and its log here and return the submission id.

    RAY_AUTH_MODE and RAY_AUTH_TOKEN of this process are used; QUANTFLEET_* and AWS_* variables are the cluster's own.

    Raises: ClusterError: the cluster does not answer. TrainingError: the job failed; its log was printed.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    if not address.startswith(("http://", "https://")):
        what = f"{address!r} is not the address of a Ray dashboard" if address else "no cluster is named"
        raise ClusterError(f"{what}: give --address http://host:8265, or set RAY_API_SERVER_ADDRESS.")
    runtime_env: dict[str, object] = {"working_dir": str(working_dir.resolve()), "excludes": _EXCLUDES}
    if (working_dir / "platform" / "quantfleet").is_dir():
        runtime_env["env_vars"] = {"PYTHONPATH": SOURCE_ROOTS}
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(["python", "-m", module, *arguments]), runtime_env=runtime_env)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the cluster at {address} does not take the job: {error}") from error
    sys.stdout.write(f"submitted {job}: {job_page(address, job)}\n")
    sys.stdout.flush()
    _follow(client, job)
    status = client.get_job_status(job)
    if status is not JobStatus.SUCCEEDED:
        message = client.get_job_info(job).message
        raise TrainingError(f"job {job} ended {status}: {message}", job=job)
    return str(job)


def _follow(client: object, job: str) -> None:
    import asyncio

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):  # type: ignore[attr-defined]
            sys.stdout.write(lines)
            sys.stdout.flush()

    asyncio.run(tail())
