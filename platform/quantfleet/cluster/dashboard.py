"""Links into Ray's dashboard, where there is one."""

from __future__ import annotations

import ray

__all__ = ["dashboard_link", "job_page"]


def dashboard_link() -> str | None:
    """Page of the job that this process is, in the dashboard of the Ray it is connected to; None without a dashboard."""
    from ray._private.worker import get_dashboard_url  # what ray.init() itself returns; there is no public way later on

    host = get_dashboard_url() if ray.is_initialized() else None
    if not host:
        return None
    return job_page(host, ray.get_runtime_context().get_job_id())


def job_page(address: str, job: str) -> str:
    """Address of a job's page.

    Args:
        address: of the dashboard, with or without http://.
        job: job id or submission id.
    """
    scheme = "" if address.startswith(("http://", "https://")) else "http://"
    return f"{scheme}{address.rstrip('/')}/#/jobs/{job}"
