"""What the bench's cases stand on can be laid, also the harder ones."""

import pytest

from chorus.bench import ground
from chorus.bench.ground import Case
from store.database import Database, Transaction


@pytest.mark.parametrize(
    ("case", "waiting"),
    [
        (Case("plain", 1, 2, 60, 1.0), [(1, 0, 60)]),
        (Case("shelves", 1, 2, 60, 1.0, campaigns=3, perspectives=2), [(c, 0, 20) for c in (1, 2, 3)]),
        (Case("dominant", 1, 2, 60, 1.0, answered=40), [(1, 0, 20), (1, 1, 40)]),
    ],
)
async def test_units_wait_where_a_case_says(db: Database, case: Case, waiting: list[tuple[int, int, int]]):
    laid = await ground.lay(case, db)
    assert (len(laid.campaigns), len(laid.hosts)) == (case.campaigns, case.hosts)

    async def shelves(tx: Transaction) -> list[tuple[int, int, int]]:
        found = await tx.raw.execute(
            "SELECT campaign_id, lane, count(*) FROM ready GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return await found.fetchall()

    assert await db.transaction("shelves", shelves) == waiting
