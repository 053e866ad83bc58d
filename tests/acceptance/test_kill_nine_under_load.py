"""Twenty kill -9 while 200,000 units are worked off: nothing acknowledged is lost, nothing doubled or stuck.

CHORUS_LONG_UNITS makes it smaller. To see it red, plant one of these:

- acknowledged before it is durable: `synchronous_commit` to `off` in store/postmaster.py;
- counted twice: `folded` to `false` where BOOK_SETTLED (store/annotations.py) writes the ledger;
- stuck: no `replicas.put` in `give_back` (coordinator/settlement.py), so that what lapsed never comes back.
"""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from support import ground, stubborn
from support.street import PYTHON, Process, Street, kill_one
from support.waiting import wait_until

from coordinator.keys import keys_of
from coordinator.policy import Policy
from coordinator.settings import Settings
from protos import work_pb2

UNITS = int(os.environ.get("CHORUS_LONG_UNITS", "200000"))
LOADS, HOSTS_A_LOAD = 3, 4
POLICY = Policy(
    replication=2,
    max_voices=5,
    cross_check="lexical",
    spot_check=0.9,  # so that some work alone
    lease_s=8,  # so that some lapse while their host is dead
    max_attempts=1000,
    max_failures=100,
)
VICTIMS = (
    ["work"] * 5 + ["load"] * 4 + ["backend"] * 4 + ["postmaster"] * 3 + ["upkeep"] * 2 + ["images", "up"]
)
STEP_S = 300.0


class Trial:
    """The campaign, the processes of stubborn hosts that work it off, and the ways to kill a part of it."""

    def __init__(self, street: Street, rng: random.Random) -> None:
        self._street = street
        self._rng = rng
        self._enrolled = asyncio.run(ground.lay(street.database_url, UNITS, LOADS * HOSTS_A_LOAD, POLICY))
        self._journals = street.folder / "journals"
        self._journals.mkdir()
        self._loads = {number: self._start(number) for number in range(LOADS)}

    def _start(self, number: int) -> Process:
        plan = stubborn.Plan(
            address=f"127.0.0.1:{self._street.port}",
            ca=keys_of(Settings(data=self._street.data)).ca_der.hex(),
            journals=self._journals,
            hosts=self._enrolled[number::LOADS],
        )
        file = self._street.folder / f"load-{number}.json"
        file.write_text(plan.model_dump_json())
        return Process([*PYTHON[:1], stubborn.__file__, str(file)], file.with_suffix(".log"))

    def end(self) -> None:
        """Kills what works."""
        for load in self._loads.values():
            load.kill()

    def acknowledged(self) -> int:
        """About how many results were acknowledged: every other record of the journals says so."""
        fallen = [load.said for load in self._loads.values() if load.status not in {None, -9}]
        assert not fallen, fallen
        return sum(path.stat().st_size for path in self._journals.iterdir()) // stubborn.RECORD.size // 2

    def await_acknowledged(self, count: float) -> None:
        """Waits until so many results were acknowledged."""
        wait_until(lambda: self.acknowledged() >= count, STEP_S)

    def revive(self) -> None:
        """Who was killed comes back, with what it held; its leases may have lapsed since."""
        dead = [number for number, load in self._loads.items() if load.status is not None]
        self._loads.update({number: self._start(number) for number in dead})

    def kill(self, victim: str) -> None:
        """One kill -9."""
        match victim:
            case "load":
                self._rng.choice(list(self._loads.values())).kill()
            case "up":
                self._street.process.kill()
                self._street.restart()
            case "postmaster" | "backend":
                kill_one(self._street.postgres(backends=victim == "backend"), self._rng)
            case _:
                kill_one(self._street.servers(victim), self._rng)

    def await_end(self) -> None:
        """Waits until nothing is left to do for anybody."""
        try:
            wait_until(lambda: self._undone() == {}, STEP_S, pause_s=1)
        except AssertionError as error:
            raise AssertionError(f"stuck: {self._undone()}") from error
        paths = list(self._journals.iterdir())
        wait_until(lambda: not any(stubborn.unacknowledged(path) for path in paths), STEP_S, pause_s=1)

    def check(self) -> None:
        """Holds what hosts were told, and what is in the database, to the promises."""
        stored = Counter(digest for (digest,) in self._street.rows("SELECT hash FROM results"))
        assert stored.total() == len(stored) >= UNITS, "a result is there twice"
        said = [record for path in self._journals.iterdir() for record in stubborn.records(path)]
        told = Counter(work_pb2.ResultStatus.Name(one.status) for one in said if one.status != stubborn.HELD)
        assert told.keys() <= {"STORED", "DUPLICATE", "LATE"}, "an honest host was refused"
        lost = [one for one in said if one.status != stubborn.HELD and one.hash not in stored]
        assert (len(lost), lost[:3]) == (0, []), "acknowledged, and lost"
        print(f"{UNITS} units, acknowledged {dict(told)}")
        with psycopg.connect(self._street.database_url, autocommit=True) as connection:
            connection.execute("ANALYZE")
            for promise, broken in PROMISES.items():
                assert connection.execute(broken).fetchmany(5) == [], promise

    def _undone(self) -> dict[str, int] | None:
        """How many rows say that something is left to do, by table; None while the database is away."""
        with contextlib.suppress(psycopg.OperationalError):
            [counts] = self._street.rows(UNDONE)
            return {name: count for name, count in zip(TABLES, counts, strict=True) if count}
        return None


TABLES = ("units", "ready", "leases", "settled", "ledger")
UNDONE = """
SELECT (SELECT count(*) FROM units WHERE state = 'open'), (SELECT count(*) FROM ready),
       (SELECT count(*) FROM leases), (SELECT count(*) FROM settled),
       (SELECT count(*) FROM ledger WHERE NOT folded)
"""

# What would break each promise.
PROMISES = {
    "every unit is accepted, since every host is honest": "SELECT * FROM units WHERE state <> 'accepted'",
    "every unit has one annotation": """
        SELECT u.id, count(a.id)
        FROM units u LEFT JOIN annotations a ON a.campaign_id = u.campaign_id AND a.unit_id = u.id
        GROUP BY u.campaign_id, u.id HAVING count(a.id) <> 1""",
    "every result is judged once, and nothing else is": """
        SELECT unit_id, user_id, count(r.hash), count(l.id)
        FROM results r FULL JOIN ledger l USING (campaign_id, unit_id, user_id, host_id, model)
        GROUP BY campaign_id, unit_id, user_id
        HAVING count(r.hash) <> 1 OR count(l.id) <> 1 OR bool_or(l.reversed)""",
    "the voices of a unit are judged by its verdict, and work alone is told from checked work": """
        SELECT l.*, u.verdict, r.voices
        FROM (SELECT *, count(*) OVER (PARTITION BY campaign_id, unit_id) AS voices
              FROM results WHERE NOT late) AS r
        JOIN ledger l USING (campaign_id, unit_id, user_id)
        JOIN units u ON u.campaign_id = l.campaign_id AND u.id = l.unit_id
        WHERE l.judgement <> CASE
            WHEN r.voices = 1 THEN 'unchecked'
            WHEN (u.verdict->'judgements'->(l.user_id::text)->>'agrees')::bool THEN 'agreed'
            ELSE 'disagreed' END""",
    "an accepted result earns its task's weight, and no other earns anything": """
        SELECT l.*, t.credit FROM ledger l JOIN tasks t USING (campaign_id, perspective_id)
        WHERE l.credit <> CASE WHEN l.judgement IN ('agreed', 'unchecked') THEN t.credit ELSE 0 END""",
    "standings are the ledger, added up": """
        SELECT * FROM (
            SELECT host_id, campaign_id, perspective_id, model, sum(credit) AS credit,
                   count(*) FILTER (WHERE judgement = 'agreed') AS agreed,
                   count(*) FILTER (WHERE judgement = 'disagreed') AS disagreed,
                   count(*) FILTER (WHERE judgement = 'unchecked') AS unchecked
            FROM ledger GROUP BY 1, 2, 3, 4) AS l
        FULL JOIN standings s USING (host_id, campaign_id, perspective_id, model)
        WHERE (l.agreed, l.disagreed, l.unchecked, l.credit)
              IS DISTINCT FROM (s.agreed, s.disagreed, s.unchecked, s.credit)""",
    "totals of credit are the ledger, added up": """
        SELECT * FROM (
            SELECT owner, owner_id, count(*) AS results, sum(credit) AS credit
            FROM ledger, LATERAL (VALUES ('user', user_id), ('host', host_id)) AS o (owner, owner_id)
            WHERE judgement IN ('agreed', 'unchecked') GROUP BY 1, 2) AS l
        FULL JOIN credit_totals s USING (owner, owner_id)
        WHERE (l.results, l.credit) IS DISTINCT FROM (s.results, s.credit)""",
    "every result lies in a batch that its host signed": """
        SELECT r.unit_id, r.host_id
        FROM results r LEFT JOIN returns b ON b.id = r.return_id AND b.host_id = r.host_id
        WHERE b.id IS NULL OR position(r.hash IN b.hashes) = 0""",
}


@pytest.mark.long
def test_twenty_kills_lose_nothing_double_nothing_and_leave_nothing_stuck(
    data_folder: Path, seed: int
) -> None:
    rng = random.Random(seed)
    victims = rng.sample(VICTIMS, len(VICTIMS))
    with Street(data_folder, "--workers", "2") as street, contextlib.ExitStack() as held:
        trial = Trial(street, rng)
        held.callback(trial.end)
        began = time.monotonic()
        for number, victim in enumerate(victims, 1):
            # The moment is a share of the work, and then some milliseconds.
            trial.await_acknowledged((number - 0.5) / (len(victims) + 1) * 2 * UNITS)
            until = time.monotonic() + rng.uniform(0, 0.4)
            wait_until(lambda until=until: time.monotonic() > until, pause_s=0.002)  # type: ignore[misc]  # a default binds it
            trial.revive()
            print(
                f"{time.monotonic() - began:.1f} s, {trial.acknowledged()} acknowledged: kill -9 of {victim}"
            )
            trial.kill(victim)
        trial.revive()
        trial.await_end()
        print(f"{time.monotonic() - began:.1f} s: all is done")
        trial.check()
