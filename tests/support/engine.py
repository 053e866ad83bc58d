"""A work engine for tests: real database, real commands, a clock and randomness that the test owns."""

import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from captions.perspective import Perspective
from coordinator import campaigns as campaign_commands
from coordinator.campaigns import Campaign, Campaigns
from coordinator.facts import UnitFacts
from coordinator.identity import Caller
from coordinator.leasing import Leasing
from coordinator.long_poll import LongPoll
from coordinator.pace import Paces
from coordinator.policy import CampaignFile, PerspectiveUse
from coordinator.returns import Acknowledged, ReturnedAnswer, ReturnedFailure, Returns, SignedBatch
from coordinator.scheduler import Ability, Scheduler
from coordinator.settlement import Key
from coordinator.submission import Subject, submit
from coordinator.trust import Trust
from coordinator.upkeep import jobs
from coordinator.work import Work
from protos.tier import Tier
from store import contents, hosts
from store.contents import NewContent
from store.database import Database, Transaction
from store.shelves import LeasedUnit

SENTENCE = {
    "name": "sentence",
    "display_name": "Sentence",
    "version": "1",
    "prompt": "One sentence.",
    "schema_fields": [{"name": "caption", "type": "str", "description": "A sentence.", "is_list": False}],
    "table_columns": [],
    "context_template": "",
}


class Engine:
    """Commands on one database; hosts are made on demand, one user each unless said otherwise."""

    def __init__(self, db: Database, seed: int = 1) -> None:
        self.db = db
        self.rng = random.Random(seed)
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.key = Ed25519PrivateKey.generate()
        self.campaigns = Campaigns(db, self.rng)
        self.scheduler = Scheduler(self.rng)
        facts = UnitFacts(db)
        self.trust = Trust(db, self.rng, self.now)
        self.paces = Paces(db, facts, self.now)
        self.work = Work(db, self.campaigns, self.now)
        self.leasing = Leasing(
            db, self.campaigns, self.scheduler, facts, self.trust, self.paces, self.now, self.work.release
        )
        self.long_poll = LongPoll(self.leasing, self.scheduler)
        db.bell.tapped(self.long_poll.work_is_near)
        self.returns = Returns(db, self.campaigns, facts, self.trust, self.paces, self.now)

    def now(self) -> datetime:
        return self.time

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    async def campaign(self, name: str = "c", perspectives: int = 1, **policy: Any) -> Campaign:
        """A campaign with so many one-sentence perspectives; new hosts get as much as they want."""
        written = CampaignFile.model_validate(
            {
                "name": name,
                "perspectives": ["unused"] * perspectives,
                "policy": {"first_batch": 256, **policy},
            }
        )
        uses = [
            (
                PerspectiveUse(perspective=f"p{number}"),
                Perspective.parse(json.dumps({**SENTENCE, "name": f"sentence{number}"})),
            )
            for number in range(1, perspectives + 1)
        ]
        campaign_id = await campaign_commands.create(self.db, written, uses, self.time)
        await self.campaigns.refresh()
        return self.campaigns.need(campaign_id)

    async def images(self, campaign: Campaign, count: int, priority: int = 0) -> int:
        """Submits so many made-up images; gives how many units were born."""

        async def body(tx: Transaction) -> int:
            subjects = []
            for _ in range(count):
                digest = self.rng.randbytes(32)
                content = NewContent(
                    digest,
                    digest,
                    self.rng.getrandbits(63),
                    f"{digest.hex()}.jpg",
                    f"file:///{digest.hex()}",
                    100,
                    100,
                    "jpeg",
                    1000,
                    None,
                    None,
                    {},
                )
                stored = await contents.add(tx, content, None, "test", self.time)
                subjects.append(Subject(stored.id, digest))
            now, key = self.time, self.key
            return (await submit(tx, campaign, subjects, key, self.rng, now, priority)).born

        born = await self.db.transaction("images", body)
        await self.leasing.look_at_shelves()
        return born

    async def host(self, user: str | None = None, tier: Tier = Tier.G80) -> Caller:
        """A host; of the same user where the same name is given."""
        public_key = self.rng.randbytes(32)
        name = user or public_key.hex()[:12]

        async def body(tx: Transaction) -> Caller:
            user_id = await hosts.ensure_user(tx, name, "volunteer", self.time)
            host_id = await hosts.add_host(tx, user_id, "host", public_key, tier, self.time)
            return Caller(host_id, user_id, tier)

        return await self.db.transaction("host", body)

    async def lease(
        self, caller: Caller, want: int = 10, tier: Tier = Tier.G80, **ability: Any
    ) -> list[LeasedUnit]:
        """Leases by a fresh picture of the shelves."""
        await self.leasing.look_at_shelves()
        targets = self.campaigns.targets_of(caller.host_id, caller.user_id)
        return list((await self.leasing(caller, Ability(tier, targets=targets, **ability), want)).units)

    async def give(self, caller: Caller, answers: dict[Key, str]) -> list[Acknowledged]:
        """Returns captions."""
        items = [answer(key, text) for key, text in answers.items()]
        return await self.returns(caller, items, batch(items))

    async def fail(self, caller: Caller, keys: list[Key], reason: str = "poisoned") -> list[Acknowledged]:
        """Returns failures."""
        items = [ReturnedFailure(key, reason) for key in keys]
        return await self.returns(caller, items, SignedBatch(b"\0" * 32 * len(items), bytes(64)))

    async def upkeep(self) -> None:
        """Every upkeep job until nothing is left to do."""
        for job in jobs(self.db, self.work, self.now):
            await job.run()

    async def fetch(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows, for assertions."""

        async def body(tx: Transaction) -> list[tuple[Any, ...]]:
            found = await tx.raw.execute(sql, parameters)
            return await found.fetchall()

        return await self.db.transaction("test", body)

    async def value(self, sql: str, *parameters: object) -> Any:
        """The first column of the first row."""
        return (await self.fetch(sql, *parameters))[0][0]


def key_of(unit: LeasedUnit) -> Key:
    return (unit.campaign_id, unit.id)


def answer(key: Key, text: str, model: str = "m") -> ReturnedAnswer:
    """An answer as it comes off the wire."""
    body = json.dumps({"caption": text}, separators=(",", ":")).encode()
    digest = hashlib.sha256(repr((key, body, model)).encode()).digest()
    return ReturnedAnswer(key, digest, body, model, "test", 0, 10)


def batch(items: list[ReturnedAnswer]) -> SignedBatch:
    """What a host would have signed."""
    return SignedBatch(b"".join(item.hash for item in items), bytes(64))


def caption(number: int) -> str:
    """A sentence that only the image of this number could have."""
    things = ("dog", "boat", "castle", "violin", "train", "cactus", "bridge", "owl", "tractor", "lamp")
    places = ("beach", "forest", "kitchen", "desert", "harbour", "stadium", "library", "meadow", "street")
    colours = (
        "red",
        "blue",
        "green",
        "yellow",
        "purple",
        "orange",
        "black",
        "white",
        "silver",
        "brown",
        "pink",
    )
    thing = things[number % 10]
    return (
        f"A {colours[number % 11]} {thing} number {number} stands near a {colours[number // 11 % 11]} "
        f"fence in the {places[number % 9]} beside {number // 7} stones"
    )
