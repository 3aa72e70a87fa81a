"""Connection to Ray and job submission."""

from quantfleet.cluster.config import ClusterConfig

__all__ = ["ClusterConfig"]
