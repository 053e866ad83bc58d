"""A turncoat tells the truth until it is trusted, then lies: spot checks bound what it gets away with.

A tenth of what it does is checked, and it cannot see which. Some number d of disagreements takes its trust:
one where it was earned just now, five where it was right in a thousand checks, and one more for every seven
agreements of its last hour or so. Checks come by chance, so d of them take 10 d lies, but for luck; and while
they are judged, for which others must answer the unit too, it hands in what it holds and a batch or two more.
So the lies that stand are at most 10 d, three standard deviations of luck and two batches. After that all
that it answers is checked, and no lie of it stands.
"""

import math
from dataclasses import replace

import pytest
from simulation.clients import Client, Nature, truth
from support.engine import Engine, answer, batch, key_of

from coordinator.evidence import SOLE, Evidence, weight
from store.database import Database

ROUND_S = 60
BATCH = 20
EARNED_BY = 8
"""Rounds after which all hosts are trusted."""


class _Street:
    """Three honest hosts and a turncoat, who work in rounds."""

    def __init__(self, engine: Engine, clients: list[Client]) -> None:
        self._engine = engine
        self._clients = clients
        self.lies: set[int] = set()

    async def round(self) -> None:
        """Everybody does a batch, then upkeep runs and servers learn of it."""
        await self._engine.images(self._engine.campaigns.running()[0], 4 * BATCH)
        for client in self._clients:
            await self._batch(client)
        self._engine.pass_time(ROUND_S)
        await self._engine.upkeep()
        await self._engine.trust.refresh()

    async def _batch(self, client: Client) -> None:
        items = []
        for unit in await self._engine.lease(client.caller, want=BATCH):
            said = client.says(unit.id, {})
            if said != truth(unit.id):
                self.lies.add(unit.id)
            items.append(answer(key_of(unit), said))
        await self._engine.returns(client.caller, items, batch(items))

    def weight(self, client: Client) -> float:
        """What servers now think of the client."""
        campaign = self._engine.campaigns.running()[0]
        return self._engine.trust.weight(client.caller.host_id, campaign.id, 1, "m")

    async def evidence(self, client: Client) -> Evidence:
        """What that rests on."""
        [row] = await self._engine.fetch(
            "SELECT month_agreed, month_disagreed, hour_agreed, hour_disagreed FROM standings "
            "WHERE host_id = %s",
            client.caller.host_id,
        )
        return Evidence(*row)

    async def wrong(self, client: Client) -> int:
        """Units whose canonical answer is a lie of the client."""
        return await self._engine.value(
            "SELECT count(*) FROM units WHERE canonical_user_id = %s AND id = ANY(%s)",
            client.caller.user_id,
            list(self.lies),
        )


def disagreements_to_lose(evidence: Evidence) -> int:
    """How many disagreements take trust from a host of this evidence."""
    for count in range(1000):
        more = replace(
            evidence,
            month_disagreed=evidence.month_disagreed + count,
            hour_disagreed=evidence.hour_disagreed + count,
        )
        if weight(more) < SOLE:
            return count
    raise AssertionError("nothing takes its trust")


async def _turned(db: Database, seed: int, **policy: float) -> tuple[_Street, Client]:
    """A street on which everybody is trusted, in the moment when the turncoat turns."""
    engine = Engine(db, seed)
    await engine.campaign(**policy)
    clients = [Client(number, await engine.host(), Nature.HONEST) for number in range(4)]
    street = _Street(engine, clients)
    for _ in range(EARNED_BY):
        await street.round()
    assert min([street.weight(client) for client in clients]) >= SOLE
    clients[-1].nature = Nature.LYING
    return street, clients[-1]


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_turncoat_gets_away_with_little(db: Database, seed: int) -> None:
    street, turncoat = await _turned(db, seed)
    needed = disagreements_to_lose(await street.evidence(turncoat))
    for _ in range(12):
        await street.round()
    wrong = await street.wrong(turncoat)
    luck = 3 * math.sqrt(needed * 0.9) / 0.1
    assert 0 < wrong <= needed / 0.1 + luck + 2 * BATCH
    assert street.weight(turncoat) < 1
    for _ in range(4):
        await street.round()
    assert await street.wrong(turncoat) == wrong, "a lie stands after trust was lost"
    assert len(street.lies) > 4 * BATCH


async def test_without_spot_checks_nobody_would_notice(db: Database) -> None:
    """The operator's choice (`spot_check = 0`), and why it is not the default."""
    street, turncoat = await _turned(db, 1, spot_check=0)
    for _ in range(6):
        await street.round()
    assert street.weight(turncoat) >= SOLE
    assert await street.wrong(turncoat) == len(street.lies) == 6 * BATCH
