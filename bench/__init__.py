"""Benchmarks against the peers of the field: `make bench`."""
