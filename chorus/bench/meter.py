"""What a case of the bench cost and brought: CPU of the servers, counts in SQL, latencies of clients."""

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from chorus.up import Running
from store import bulk
from store.database import Database


@dataclass(frozen=True, slots=True)
class Meter:
    """CPU seconds of the servers and the database, and the database's counts, at one moment."""

    server_cpu_s: float
    database_cpu_s: float
    counts: dict[str, int]

    @classmethod
    async def read(cls, running: Running, db: Database, campaigns: Sequence[int]) -> "Meter":
        """The present figures; `counts` are of these campaigns."""
        counts = await db.transaction("bench", lambda tx: bulk.counts(tx, campaigns))
        servers = [psutil.Process(child.pid) for child in running.children.values()]
        postmaster = psutil.Process(running.database.pid) if running.database else None
        backends = [postmaster, *postmaster.children()] if postmaster else []
        return cls(_cpu(servers), _cpu(backends), counts)


def _cpu(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def memory_mb(running: Running) -> float:
    """What the coordinator's processes hold, without the database, in MB."""
    used = [psutil.Process(child.pid).memory_info().rss for child in running.children.values()]
    return round(sum(used) / 1e6, 1)


def figures(before: Meter, after: Meter, seen: dict[str, Any], seconds: float) -> dict[str, float]:
    """The case's figures: rates by the database's counts, CPU of server and database, clients' latencies."""
    accepted = after.counts["accepted"] - before.counts["accepted"]
    results = after.counts["results"] - before.counts["results"]
    server = after.server_cpu_s - before.server_cpu_s
    database = after.database_cpu_s - before.database_cpu_s
    return {
        "accepted_units_per_s": round(accepted / seconds, 1),
        "results_per_s": round(results / seconds, 1),
        "cpu_us_per_result": round((server + database) / max(results, 1) * 1e6, 1),
        "server_cpu_us_per_result": round(server / max(results, 1) * 1e6, 1),
        "database_cpu_us_per_result": round(database / max(results, 1) * 1e6, 1),
        "commits_per_s": round((after.counts["commits"] - before.counts["commits"]) / seconds, 1),
        "calls_per_s": round(seen["calls"] / seconds, 1),
        "lease_p50_ms": percentile_ms(seen["lease_s"], 50),
        "lease_p99_ms": percentile_ms(seen["lease_s"], 99),
        "return_p50_ms": percentile_ms(seen["return_s"], 50),
        "return_p99_ms": percentile_ms(seen["return_s"], 99),
        "sql_accepted": accepted,
        "refused": seen["refused"],
    }


def percentile_ms(seconds: Sequence[float], share: int) -> float:
    """The percentile of some latencies, in ms."""
    if len(seconds) < 2:
        return round(1000 * sum(seconds), 2)
    return round(1000 * statistics.quantiles(seconds, n=100)[share - 1], 2)
