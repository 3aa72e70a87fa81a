"""File systems and Delta tables: local folders and s3:// behind one face."""

from quantfleet.storage.config import StorageConfig
from quantfleet.storage.delta import LakeTable, TableVersion
from quantfleet.storage.made import MadeTable, Rewrite
from quantfleet.storage.store import Storage, s3_environment

__all__ = ["LakeTable", "MadeTable", "Rewrite", "Storage", "StorageConfig", "TableVersion", "s3_environment"]
