"""The one set of books: accounts and what trading costs them."""

from quantfleet.ledger.account import Account, Fills
from quantfleet.ledger.costs import BPS, CostModel
from quantfleet.ledger.risk import RiskRules
from quantfleet.ledger.terms import DUST

__all__ = ["BPS", "DUST", "Account", "CostModel", "Fills", "RiskRules"]
