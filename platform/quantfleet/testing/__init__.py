"""Contract suites that plugins pass, for this project's tests and for yours."""

from quantfleet.testing.model_contract import check_model_contract

__all__ = ["check_model_contract"]
