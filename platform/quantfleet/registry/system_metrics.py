"""How busy this machine is, under the names that MLflow's page of system metrics knows."""

from __future__ import annotations

from typing import Any

__all__ = ["SystemSampler"]


class SystemSampler:
    """Processor, memory, disk and network of this machine, and its NVIDIA GPUs where `nvidia-ml-py` is installed."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        try:
            self._monitors.append(GPUMonitor())
        except (ImportError, RuntimeError):  # what it raises on a machine without a GPU, or without its library
            self.gpu = False
        else:
            self.gpu = True
        self.sample()  # processor load is measured from the sample before

    def sample(self) -> dict[str, float]:
        """What is now, by MLflow's names: `system/cpu_utilization_percentage` and so on."""
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.clear_metrics()
            monitor.collect_metrics()
            found |= {f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()}
        return found
