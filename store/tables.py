"""Every table of the database, gathered for migrations and tests."""

from store import (
    annotations,
    batches,
    campaigns,
    contents,
    credit,
    embeddings,
    hosts,
    leases,
    ledger,
    messages,
    pulse,
    quotas,
    rates,
    results,
    rounds,
    shelves,
    units,
    users,
)
from store.schema import metadata

MODULES = (
    users,
    hosts,
    campaigns,
    contents,
    units,
    batches,
    shelves,
    leases,
    results,
    rounds,
    ledger,
    credit,
    annotations,
    embeddings,
    pulse,
    messages,
    quotas,
    rates,
)

__all__ = ["MODULES", "metadata"]
