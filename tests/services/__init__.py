"""Real services for tests, each on loopback and each a context manager that ends what it started.

    s3.start_s3              an S3 server (Ceph: one monitor, one in-memory object store, one gateway)
    postgres.start_postgres  a PostgreSQL server
    exchange.start_exchange  a Binance-like spot exchange that replays given bars and fails on demand

`tests/conftest.py` wraps them as fixtures.
"""
