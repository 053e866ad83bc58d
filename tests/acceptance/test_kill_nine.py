"""kill -9 of everything, at random moments: nothing acknowledged is lost, nothing is counted twice."""

import random
import time
from pathlib import Path

import pytest
from support.street import Process, Street, acknowledged, events, kill_one
from support.waiting import wait_until

NAMES = ("ada", "ben", "cleo")


class Trial:
    """A campaign under way with three honest volunteers, and the ways to kill a part of it."""

    def __init__(self, street: Street, rng: random.Random) -> None:
        self.street = street
        self.rng = rng
        self.endpoints = {name: street.reader(name, number) for number, name in enumerate(NAMES, 1)}
        self.homes = {name: street.join(name, street.invite("--user", name)) for name in NAMES}
        self.volunteers = {name: self._start(name) for name in NAMES}

    def _start(self, name: str) -> Process:
        # One request at a time: the campaign shall last for all kills.
        return self.street.volunteer(self.homes[name], self.endpoints[name], name, "--concurrency", "1")

    def acknowledged(self) -> set[tuple[int, int, str]]:
        """(campaign, unit, user) of each result that a volunteer was told is safe."""
        return {
            (*ref, name)
            for name, home in self.homes.items()
            for ref in acknowledged(home.with_suffix(".log"))
        }

    def answered(self) -> int:
        """How many answers the volunteers' models have given; it grows steadily, whatever is killed."""
        return sum(len(list(events(home.with_suffix(".log"), "done"))) for home in self.homes.values())

    def kill(self, victim: str) -> None:
        """One kill -9, and what only a person can do after it."""
        match victim:
            case "volunteer":
                name = self.rng.choice(NAMES)
                self.volunteers[name].kill()
                self.volunteers[name] = self._start(name)
            case "up":
                self.street.process.kill()
                self.street.restart()
            case "postmaster" | "backend":
                kill_one(self.street.postgres(backends=victim == "backend"), self.rng)
            case _:
                kill_one(self.street.servers(victim), self.rng)


def run(folder: Path, scenes: int, victims: list[str], seed: int, done_s: float) -> None:
    """Kills the victims in a random order while the campaign goes on; then checks that all is right."""
    rng = random.Random(seed)
    rng.shuffle(victims)
    with Street(folder) as street:
        street.campaign(scenes, "lease_s = 10\nmax_voices = 5\nmax_attempts = 200\nmax_failures = 100")
        trial = Trial(street, rng)
        for number, victim in enumerate(victims, 1):
            # The moment is a share of the work, and then some milliseconds.
            share = (number - 0.5) / (len(victims) + 1) * 2 * scenes
            wait_until(lambda share=share: trial.answered() >= share, done_s)  # type: ignore[misc]  # a default binds it
            until = time.monotonic() + rng.uniform(0, 0.4)
            wait_until(lambda until=until: time.monotonic() > until)  # type: ignore[misc]  # a default binds it
            known = len(trial.acknowledged())
            print(f"{trial.answered()} answered, {known} acknowledged: kill -9 of {victim}")
            trial.kill(victim)
        await_completion(street, done_s)
        check(trial, scenes)


def await_completion(street: Street, timeout_s: float) -> None:
    def complete() -> bool:
        status = street.admin("status", "--json")
        return status.returncode == 0 and '"open": 0' in status.stdout and '"leased": 0' in status.stdout

    wait_until(complete, timeout_s, pause_s=0.5)
    wait_until(
        lambda: street.rows("SELECT count(*) FROM settled") + street.rows(
            "SELECT count(*) FROM ledger WHERE NOT folded"
        ) == [(0,), (0,)],
        30,
    )  # fmt: skip


def check(trial: Trial, scenes: int) -> None:
    rows = trial.street.rows
    status = trial.street.status()
    assert status["units"] == scenes == status["accepted"] + status["exhausted"]
    assert status["accepted"] >= 0.8 * scenes
    stored = rows("SELECT campaign_id, unit_id, u.name FROM results r JOIN users u ON u.id = r.user_id")
    assert trial.acknowledged() - set(stored) == set(), "acknowledged, and lost"
    assert len(stored) == len(set(stored)), "counted twice"
    agreed = rows("SELECT count(*) FROM ledger WHERE judgement = 'agreed'")
    assert rows("SELECT sum(credit) FROM ledger") == agreed, "credit is one for each result that agreed"
    assert rows("SELECT sum(agreed), sum(credit) FROM standings") == [(agreed[0][0], agreed[0][0])]
    twice = (
        "SELECT unit_id, user_id FROM ledger WHERE judgement <> 'failed' GROUP BY 1, 2 HAVING count(*) > 1"
    )
    assert rows(twice) == []
    judged = "SELECT count(*) FROM ledger WHERE judgement <> 'failed'"
    exhausted = "SELECT count(*) FROM results JOIN units ON id = unit_id WHERE state = 'exhausted'"
    assert rows(judged)[0][0] + rows(exhausted)[0][0] == len(stored), "each result is judged"
    assert rows("SELECT count(*) FROM ready") == [(0,)]
    assert rows("SELECT count(*) FROM leases") == [(0,)]
    annotated = rows("SELECT count(*), count(DISTINCT unit_id) FROM annotations")
    assert annotated == [(status["accepted"], status["accepted"])]


def test_kills_lose_nothing_and_double_nothing(data_folder: Path, seed: int) -> None:
    victims = ["work", "images", "upkeep", "postmaster", "backend", "volunteer", "up"]
    run(data_folder, scenes=64, victims=victims, seed=seed, done_s=60)


@pytest.mark.long
def test_many_kills_lose_nothing_and_double_nothing(data_folder: Path, seed: int) -> None:
    victims = ["work", "postmaster", "backend", "volunteer"] * 4 + ["up", "up", "images", "upkeep"]
    run(data_folder, scenes=240, victims=victims, seed=seed, done_s=180)
