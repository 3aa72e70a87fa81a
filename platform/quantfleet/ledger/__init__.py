"""The one set of books: accounts and what trading costs them."""

from quantfleet.ledger.account import DUST, Account, Fills
from quantfleet.ledger.costs import BPS, CostModel

__all__ = ["BPS", "DUST", "Account", "CostModel", "Fills"]
