"""What is measured of the database's door: names, labels and meanings."""

from prometheus_client import Counter, Gauge, Histogram

TRANSACTIONS = Histogram(
    "chorus_transaction_seconds",
    "From asking for a connection to the commit, tries that were repeated included.",
    ("name",),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
RETRIES = Counter(
    "chorus_transaction_retries",
    "Tries repeated because PostgreSQL asked for it (deadlock, serialisation).",
    ("name",),
)
FAILURES = Counter("chorus_transaction_failures", "Transactions that ended in an error.", ("name",))
POOL_WAIT = Histogram(
    "chorus_pool_wait_seconds",
    "Waiting for a connection of the pool, or for a new one to be opened.",
    buckets=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0),
)
POOL_IN_USE = Gauge("chorus_pool_in_use", "Connections in transactions.", multiprocess_mode="all")
POOL_SIZE = Gauge("chorus_pool_size", "Connections that the pool may open.", multiprocess_mode="all")
