"""What a case of the bench stands on: campaigns full of units, and hosts to work on them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from captions.answer import encode_answer
from captions.perspective import Perspective
from chorus.bench.captions import caption
from coordinator import campaigns as campaign_commands
from coordinator.clock import now
from coordinator.policy import CampaignFile, PerspectiveUse, Policy, builtin
from protos import signing
from protos.tier import Tier
from store import bulk, hosts
from store.database import Database, Transaction

AT_ONCE = 250_000
BOOKED_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """`hosts` clients that each return and lease `batch` units at a time, out of `units` that wait.

    Units lie in `campaigns` × `perspectives`, and each host does one perspective where there are several. The
    first host's user has answered `answered` units before. The clients end after `seconds`, or `results`.
    """

    name: str
    batch: int
    hosts: int
    units: int
    seconds: float
    results: int = 0
    cross_check: str = "lexical"
    campaigns: int = 1
    perspectives: int = 1
    answered: int = 0
    old_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """A case's campaigns, and its hosts as their clients need them: id, key, perspectives."""

    campaigns: list[int]
    hosts: list[tuple[int, str, list[str]]]


async def lay(case: Case, db: Database) -> Ground:
    """Makes all that a case needs."""
    names = [f"bench_{number}" for number in range(case.perspectives)]
    campaigns = [await _campaign(case, number, names, db) for number in range(case.campaigns)]
    made = await _hosts(case, names, db)
    share = case.units // (case.campaigns * case.perspectives)
    for campaign_id in campaigns:
        for perspective_id in range(1, case.perspectives + 1):
            await _fill(db, campaign_id, perspective_id, share)
    if case.answered:
        await _answer(db, campaigns[0], made[0][0], case.answered)
    await bulk.settle_down(db)
    return Ground(campaigns, made)


async def _answer(db: Database, campaign_id: int, host_id: int, count: int) -> None:
    units = await db.transaction("first units", lambda tx: bulk.first_units(tx, campaign_id, count))
    bodies = [(unit_id, encode_answer({"caption": caption(unit_id, host_id)})) for unit_id in units]
    await db.transaction("answer", lambda tx: bulk.answer(tx, campaign_id, host_id, bodies, now()))


async def _campaign(case: Case, number: int, names: Sequence[str], db: Database) -> int:
    policy = Policy(
        replication=2, max_voices=3, lease_s=600, cross_check=case.cross_check, spot_check=1, first_batch=256
    )
    name = f"{case.name.replace('_', '-')}-{number}"
    plain = builtin("photo_caption")
    uses = [(PerspectiveUse(perspective=name), _named(plain, name)) for name in names]
    written = CampaignFile(name=name, perspectives=tuple(use for use, _ in uses), policy=policy)
    return await campaign_commands.create(db, written, uses, now())


def _named(perspective: Perspective, name: str) -> Perspective:
    return perspective.model_copy(update={"name": name})


async def _fill(db: Database, campaign_id: int, perspective_id: int, units: int) -> None:
    for first in range(0, units, AT_ONCE):
        count = min(AT_ONCE, units - first)

        async def body(tx: Transaction, first: int = first, count: int = count) -> None:
            await bulk.fill(tx, campaign_id, perspective_id, first, count, now())
            tx.tell_everyone()

        await db.transaction("fill", body)


async def _hosts(case: Case, names: Sequence[str], db: Database) -> list[tuple[int, str, list[str]]]:
    """One host per user."""

    async def body(tx: Transaction) -> list[tuple[int, str, list[str]]]:
        made = []
        for number in range(case.hosts):
            key = Ed25519PrivateKey.generate()
            user_id = await hosts.ensure_user(tx, f"{case.name}-{number}", "volunteer", now())
            host_id = await hosts.add_host(tx, user_id, "bench", signing.public_bytes(key), Tier.G80, now())
            able = [names[number % len(names)]] if len(names) > 1 else []
            made.append((host_id, key.private_bytes_raw().hex(), able))
        return made

    return await db.transaction("hosts", body)


async def clear(db: Database) -> None:
    """Waits until all is booked, then sweeps, so that the next case is alone."""
    while await db.transaction("unbooked", bulk.unbooked):  # noqa: ASYNC110 (another process does it)
        await asyncio.sleep(BOOKED_EVERY_S)
    await bulk.sweep(db)
