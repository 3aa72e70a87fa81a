"""One file a row; each exposes ROW."""
