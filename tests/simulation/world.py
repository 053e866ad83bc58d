"""The world of the simulation: it plays plans on a real database and holds the invariants against it."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Self, assert_never

from simulation.books import Books, believe, clear_books, read_books, relax, stay_alive
from simulation.clients import NATURES, TWIN_OF, USERS, Client, Nature, truth
from simulation.invariants import ALWAYS, AT_THE_END, Told, broken
from simulation.plan import COPIES, SERVERS, Deed, Operation, Plan, Step
from simulation.server import Server, ServerDied
from support.engine import Engine, answer, batch, key_of

from coordinator import pulse
from coordinator.campaigns import Campaign
from coordinator.identity import Caller
from coordinator.lifecycle import Receipt, UnitState
from coordinator.operations import BY_OPERATORS, Operations, Why
from coordinator.returns import Returned, ReturnedAnswer, ReturnedFailure, SignedBatch
from coordinator.settlement import Key
from coordinator.submission import Subject, submit
from coordinator.upkeep import jobs
from store import contents, hosts
from store.contents import NewContent
from store.database import Database, Transaction
from store.selections import Selection

PICTURES = 24
SPARES = 12
WAITS_S = (10, 40, 61, 200)
OUTAGES_S = (31, 60, 300, 2000)
START = datetime(2026, 1, 1, tzinfo=UTC)
Return = Literal[Deed.ANSWER, Deed.RESEND, Deed.FAIL, Deed.SPOIL, Deed.FORGE]
Talk = Literal[Deed.LEASE, Deed.RENEW, Deed.RELEASE, Deed.FORGET, Deed.RETAKE, Deed.SESSION]
Operators = Literal[Deed.PAUSE, Deed.RESUME, Deed.CANCEL, Deed.REOPEN, Deed.PRIORITISE]
MOVE_WORK = {"expire", "book", "fold", "extend"}
STORED = {Receipt.COUNTED, Receipt.LATE, Receipt.DUPLICATE}


@dataclass(frozen=True, slots=True)
class World:
    """Pictures, people and machines of one database; campaigns come and go with the plans."""

    db: Database
    subjects: Sequence[Subject]
    callers: Sequence[Caller]
    spares: Sequence[Caller]

    @classmethod
    async def prepared(cls, db: Database) -> Self:
        """A world whose pictures and people are in the database."""
        await relax(db)
        maker = Engine(db)
        callers = [await maker.host(user=f"user{user}") for user in USERS]
        callers[NATURES.index(Nature.TWIN)] = callers[TWIN_OF]
        spares = [await maker.host(user=f"spare{number}") for number in range(SPARES)]
        digests = [hashlib.sha256(str(number).encode()).digest() for number in range(PICTURES)]
        subjects = [Subject(await _picture(db, digest), digest) for digest in digests]
        return cls(db, subjects, callers, spares)

    async def play(self, plan: Plan) -> list[str]:
        """Plays a plan from an empty campaign to its end; gives what broke, with the step where it did."""
        await clear_books(self.db)
        campaign = await Engine(self.db).campaign("simulated", **plan.policy)
        await believe(self.db, campaign.id, [self.callers[number].host_id for number in plan.trusted], START)
        return await _Play(self, plan, campaign).run()


class _Play:
    """One plan as it is played."""

    def __init__(self, world: World, plan: Plan, campaign: Campaign) -> None:
        self._world = world
        self._db = world.db
        self._plan = plan
        self._campaign = campaign
        self._rng = random.Random(1)
        self._time = START
        trusted = {world.callers[number].user_id for number in plan.trusted}
        self._told = Told(honest=plan.honest, trusted=trusted)
        self._heard: dict[int, str] = {}
        self._pictures: dict[Key, int] = {}
        self._submitted = 0
        self._silent_s = 0
        self._clockwork = asyncio.Lock()
        self._step_is_single = True
        natures = [Nature.HONEST] * len(NATURES) if plan.honest else NATURES
        self._clients = [
            Client(number, caller, nature)
            for number, (caller, nature) in enumerate(zip(world.callers, natures, strict=True))
        ]
        self._servers: list[Server] = []

    async def run(self) -> list[str]:
        """The faults of the first step that broke something, or of the end."""
        self._servers = [await self._server() for _ in range(SERVERS)]
        await self._submit(self._servers[0], self._plan.images)
        books = await read_books(self._db)
        for number, step in enumerate(self._plan.steps):
            self._turn_page(books)
            await self._take(step)
            books = await read_books(self._db)
            faults = broken(ALWAYS, books, self._told)
            if faults:
                return [f"after step {number} {step}:", *faults]
        self._turn_page(books)
        await self._drain()
        return broken(AT_THE_END, await read_books(self._db), self._told)

    def _turn_page(self, books: Books) -> None:
        """A new step begins: nothing is handed out in it yet."""
        self._told.handed_out = set()
        self._told.retaken = {}
        self._told.ended = {
            unit["id"]: (unit["state"], unit["canonical"]) for unit in books.units if unit["state"] != "open"
        }

    async def _server(self) -> Server:
        server = Server(self._db, self._rng.getrandbits(32), self._time)
        await server.start()
        return server

    async def _take(self, step: Step) -> None:
        """All operations of a step at once; dead servers are followed by new ones."""
        self._step_is_single = len(step.operations) == 1
        for number, server in enumerate(self._servers):
            crash = step.crash if step.crash is not None and step.crash.server == number else None
            server.door.expect(crash)
        await asyncio.gather(*(self._do(operation) for operation in step.operations))
        for number, server in enumerate(self._servers):
            server.door.expect(None)
            if server.door.dead:
                self._servers[number] = await self._server()

    async def _do(self, operation: Operation) -> None:
        server, client = self._servers[operation.server], self._clients[operation.who]
        try:
            await self._deed(operation.deed, server, client, operation.amount)
        except ServerDied:
            return
        except Exception as error:  # noqa: BLE001 - whatever a command raises is a finding
            self._told.faults.append(f"{operation} raised {error!r}")

    async def _deed(self, deed: Deed, server: Server, client: Client, amount: int) -> None:
        engine = server.engine
        if client.nature is Nature.TWIN:
            client.held.update(self._clients[TWIN_OF].held)
        match deed:
            case Deed.LEASE | Deed.RENEW | Deed.RELEASE | Deed.FORGET | Deed.RETAKE | Deed.SESSION:
                await self._converse(deed, engine, client, amount)
            case Deed.ANSWER | Deed.RESEND | Deed.FAIL | Deed.SPOIL | Deed.FORGE:
                if client.nature is Nature.SLOW and deed is Deed.ANSWER:
                    await self._wait(61)
                    await self._upkeep(engine, 1)
                await self._return(engine, client, self._items(deed, client, amount))
            case Deed.WAIT:
                await self._wait(WAITS_S[amount - 1])
            case Deed.OUTAGE:
                await self._fall_silent(engine, OUTAGES_S[amount - 1])
            case Deed.UPKEEP:
                await self._upkeep(engine, amount)
            case Deed.SUBMIT:
                await self._submit(server, amount)
            case Deed.PAUSE | Deed.RESUME | Deed.CANCEL | Deed.REOPEN | Deed.PRIORITISE:
                await self._operate(deed, engine, client.number, amount)
            case _:
                assert_never(deed)

    async def _converse(self, deed: Talk, engine: Engine, client: Client, amount: int) -> None:
        """What a client says of its leases, and of itself."""
        match deed:
            case Deed.LEASE:
                await self._lease(engine, client, 2 * amount)
            case Deed.RENEW:
                renewed = await engine.work.renew(client.caller, list(client.held))
                client.drop(client.held.keys() - renewed.keys)
            case Deed.RELEASE:
                keys = client.pick(amount)
                await engine.work.release(client.caller, keys, "bed time")
                client.drop(keys)
            case Deed.FORGET:
                client.held.clear()
            case Deed.RETAKE:
                await self._retake(engine, client)
            case Deed.SESSION:
                await self._open_session(engine, client)
            case _:
                assert_never(deed)

    def _items(self, deed: Return, client: Client, amount: int) -> list[Returned]:
        """What a client returns; `amount` is of units that it holds, or of batches that it sent before."""
        match deed:
            case Deed.ANSWER:
                if client.nature is Nature.DYING and amount % 2:
                    client.held.clear()
                return self._captions(client, amount)
            case Deed.RESEND:
                again = [item for items in client.sent[-amount:] for item in items]
                return again[::-1]
            case Deed.FAIL:
                return [ReturnedFailure(key, "poisoned") for key in client.pick(amount)]
            case Deed.SPOIL:
                return [_spoilt(key) for key in client.pick(amount)]
            case Deed.FORGE:
                foreign = [key for key in self._pictures if key not in client.held]
                return [answer(key, "forged") for key in [*foreign[:amount], (self._campaign.id, 10**9)]]
            case _:
                assert_never(deed)

    def _captions(self, client: Client, amount: int) -> list[Returned]:
        captions: list[Returned] = []
        for key in client.pick(amount):
            picture = client.held[key]
            self._heard[picture] = client.says(picture, self._heard)
            captions.append(answer(key, self._heard[picture]))
        return captions

    async def _lease(self, engine: Engine, client: Client, want: int) -> None:
        for unit in await engine.lease(client.caller, want):
            picture = self._picture_of(unit.image_hash)
            client.held[key_of(unit)] = self._pictures[key_of(unit)] = picture
            self._told.truths[unit.id] = answer(key_of(unit), truth(picture)).body.decode()
            self._told.handed_out.add(unit.id)

    async def _retake(self, engine: Engine, client: Client) -> None:
        """Asks for what it holds here and has forgotten; alone in its step, it then holds just that."""
        more = True
        while more:
            resumed = await engine.work.resume(client.caller, list(client.held))
            client.drop(resumed.stop)
            for unit in (unit for leased in resumed.leased for unit in leased.units):
                client.held[key_of(unit)] = self._picture_of(unit.image_hash)
                self._told.handed_out.add(unit.id)
            more = resumed.more
        if self._step_is_single:
            self._told.retaken[client.caller.host_id] = {unit for _, unit in client.held}

    async def _open_session(self, engine: Engine, client: Client) -> None:
        """Asks for the next session, the same until it opens. Of two copies one may fall behind for good."""
        original, copy = (self._clients[number] for number in COPIES)
        if client is copy and not client.sequence and client.asked is None:
            client.sequence, client.asked = original.sequence, original.asked
        asked = client.asked = client.asked or (client.sequence + 1, self._rng.randbytes(16))
        host_id = client.caller.host_id
        is_open = await engine.db.transaction("session", lambda tx: hosts.next_session(tx, host_id, *asked))
        if not is_open:
            self._told.behind.add(client.number)
        elif client.number in self._told.behind:
            self._told.faults.append(f"client {client.number} had fallen behind and was let in")
        elif client.asked == asked:
            client.sequence, client.asked = asked[0], None
        if len(self._told.behind) > 1:
            self._told.faults.append(f"clients {self._told.behind} were refused as copies")

    def _picture_of(self, image_hash: bytes) -> int:
        return next(n for n, subject in enumerate(self._world.subjects) if subject.image_hash == image_hash)

    async def _return(self, engine: Engine, client: Client, items: Sequence[Returned]) -> None:
        if not items:
            return
        client.sent.append(list(items))
        answers = [item for item in items if isinstance(item, ReturnedAnswer)]
        signed = batch(answers) if answers else SignedBatch(b"", bytes(64))
        acks = await engine.returns(client.caller, items, signed)
        if [ack.key for ack in acks] != [item.key for item in items]:
            self._told.faults.append(f"{items} were acknowledged as {acks}")
        for item, ack in zip(items, acks, strict=False):
            client.drop([ack.key])
            if ack.receipt in STORED:
                if not isinstance(item, ReturnedAnswer):
                    self._told.faults.append(f"the failure {item} was acknowledged as {ack}")
                    continue
                self._told.acknowledged.add((item.key[1], client.caller.user_id, item.hash.hex()))

    async def _upkeep(self, engine: Engine, number: int) -> None:
        """One of the first three jobs; the fourth is all that move work."""
        every = [job for job in jobs(engine.db, engine.work, engine.now) if job.name in MOVE_WORK]
        for job in every[number - 1 : number] if number < 4 else every:
            while await job.run_once():
                pass

    async def _submit(self, server: Server, count: int) -> None:
        """The next pictures, and again all that were submitted before."""
        upto = min(self._submitted + count, PICTURES)
        subjects = self._world.subjects[:upto]
        engine, campaign = server.engine, self._campaign

        async def body(tx: Transaction) -> int:
            return (await submit(tx, campaign, subjects, engine.key, engine.rng, engine.time)).born

        born = await engine.db.transaction("submit", body)
        if born > upto:
            self._told.faults.append(f"{upto} pictures became {born} units")
        self._submitted = max(self._submitted, upto)

    async def _set_state(self, engine: Engine, state: str) -> None:
        """The operator's word reaches one server now, others when they start again."""
        await engine.fetch("UPDATE campaigns SET state = %s RETURNING id", state)
        await engine.campaigns.refresh()

    async def _operate(self, deed: Operators, engine: Engine, number: int, amount: int) -> None:
        """An operator's command, where it is about units on every `amount`-th."""
        ids = sorted(row[0] for row in await engine.fetch("SELECT id FROM units"))[number % amount :: amount]
        ranges = [(unit_id, unit_id) for unit_id in ids]
        chosen = Selection(self._campaign.id, frozenset(UnitState), ranges)
        commands = Operations(engine.db, engine.campaigns, engine.now)
        match deed:
            case Deed.PAUSE | Deed.RESUME:
                await self._set_state(engine, "paused" if deed is Deed.PAUSE else "running")
            case Deed.CANCEL:
                await commands.cancel(chosen, Why(BY_OPERATORS))
            case Deed.REOPEN:
                for unit_id in ids:
                    self._told.ended.pop(unit_id, None)
                await commands.reopen(chosen, "again", keep_answers=number % 2 == 0)
            case Deed.PRIORITISE:
                await commands.prioritise(chosen, number % 7 - 3)
            case _:
                assert_never(deed)

    async def _wait(self, seconds: float) -> None:
        """Time passes while coordinators work."""
        async with self._clockwork:
            before = self._time
            self._pass_time(seconds)
            await stay_alive(self._db, before, self._time)

    async def _fall_silent(self, engine: Engine, seconds: float) -> None:
        """No coordinator works for so long, and every lease that had not lapsed before is owed that time."""
        async with self._clockwork:
            held = (await read_books(self._db)).leases
            before, length = self._time, timedelta(seconds=seconds)
            self._pass_time(seconds)
            self._silent_s += seconds
            for lease in held:
                key = (lease["unit"], lease["lane"], lease["host"], lease["since"])
                until = datetime.fromisoformat(lease["deadline"])
                until = max(until, self._told.owed.get(key, until))
                if until >= before:
                    self._told.owed[key] = until + length
            await pulse.beat(engine.db, engine.time)

    def _pass_time(self, seconds: float) -> None:
        self._time += timedelta(seconds=seconds)
        for server in self._servers:
            server.engine.time = self._time

    async def _drain(self) -> None:
        """Willing, honest strangers do what is left, stragglers return what they held, upkeep runs."""
        self._servers = [await self._server()]
        engine = self._servers[0].engine
        await self._upkeep(engine, 4)
        await self._wait(1000 + self._silent_s)
        await self._set_state(engine, "running")
        await self._upkeep(engine, 1)
        for number, spare in enumerate(self._world.spares):
            client = Client(100 + number, spare, Nature.HONEST)
            await self._exhaust(engine, client)
            books = await read_books(self._db)
            if not books.waiting:
                break
        for straggler in self._clients:
            await self._return(engine, straggler, self._captions(straggler, 100))
        await self._upkeep(engine, 4)

    async def _exhaust(self, engine: Engine, client: Client) -> None:
        """Leases and answers until nothing is left for this client."""
        while True:
            await self._lease(engine, client, 100)
            if not client.held:
                return
            await self._return(engine, client, self._captions(client, 100))


async def _picture(db: Database, digest: bytes) -> int:
    name = digest.hex()
    content = NewContent(
        digest, digest, 0, f"{name}.jpg", f"file:///{name}", 64, 64, "jpeg", 1000, None, None, {}
    )

    async def body(tx: Transaction) -> int:
        return (await contents.add(tx, content, None, "test", START)).id

    return await db.transaction("picture", body)


def _spoilt(key: Key) -> ReturnedAnswer:
    """An answer against its schema."""
    body = b'{"caption": 7}'
    return ReturnedAnswer(key, hashlib.sha256(body + repr(key).encode()).digest(), body, "m", "test", 0, 1)
