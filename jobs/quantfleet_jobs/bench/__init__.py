"""`quantfleet bench models`: models side by side within one budget, and what each switch of one of them is worth."""
