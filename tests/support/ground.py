"""A campaign full of units and hosts to work on them, at once and without images."""

from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator import campaigns
from coordinator.clock import now
from coordinator.policy import CampaignFile, PerspectiveUse, Policy, builtin
from protos import signing
from protos.tier import Tier
from store import bulk, hosts
from store.database import Database, Transaction

AT_ONCE = 20_000


async def lay(url: str, units: int, host_count: int, policy: Policy) -> list[tuple[int, str]]:
    """A campaign of one perspective; gives (id, key in hex) of hosts that each have a user of their own."""
    db = Database.connect(url, pool_size=1)
    use = PerspectiveUse(perspective="photo_caption", credit=2.5)
    written = CampaignFile(name="full", perspectives=(use,), policy=policy)
    campaign_id = await campaigns.create(db, written, [(use, builtin(use.perspective))], now())
    for first in range(0, units, AT_ONCE):
        count = min(AT_ONCE, units - first)
        fill = partial(bulk.fill, campaign_id=campaign_id, perspective_id=1, first=first, count=count)
        await db.transaction("fill", partial(fill, now=now()))
    await bulk.settle_down(db)
    enrolled = await db.transaction("hosts", partial(_enrol, count=host_count))
    await db.close()
    return enrolled


async def _enrol(tx: Transaction, count: int) -> list[tuple[int, str]]:
    enrolled = []
    for number in range(count):
        key = Ed25519PrivateKey.generate()
        user_id = await hosts.ensure_user(tx, f"user-{number}", "volunteer", now())
        host_id = await hosts.add_host(tx, user_id, "test", signing.public_bytes(key), Tier.G80, now())
        enrolled.append((host_id, key.private_bytes_raw().hex()))
    return enrolled
