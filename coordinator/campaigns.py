"""Campaigns in memory: policies, tasks and the cross-check's backgrounds, refreshed from the database."""

import random
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from captions.background import Background
from captions.perspective import Perspective, answer_schema
from captions.task import Task
from coordinator.errors import OperatorError
from coordinator.policy import CampaignFile, PerspectiveUse, Policy, policy_of
from protos.tier import Tier
from store import annotations, campaigns, results, users
from store.campaigns import TaskRow
from store.database import Database, Transaction

BACKGROUND_ANSWERS = 200
NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CampaignTask:
    """A task of a campaign, parsed; `row` is as stored."""

    row: TaskRow
    task: Task


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign and its tasks by perspective id."""

    id: int
    name: str
    state: str
    policy: Policy
    tasks: dict[int, CampaignTask]

    @property
    def running(self) -> bool:
        """Whether it hands out work."""
        return self.state == "running"


async def create(
    db: Database, written: CampaignFile, perspectives: list[tuple[PerspectiveUse, Perspective]], now: datetime
) -> int:
    """Stores a campaign with its tasks, all or nothing. Raises OperatorError("campaign_exists")."""
    policy = written.policy

    async def body(tx: Transaction) -> int:
        stored = policy.model_dump(mode="json")
        campaign_id = await campaigns.create(tx, written.name, stored, now)
        if campaign_id is None:
            raise OperatorError("campaign_exists", f"There is a campaign '{written.name}' already.")
        rows = []
        for number, (use, perspective) in enumerate(perspectives, 1):
            task = Task.of(perspective, temperature=policy.temperature)
            row = TaskRow(
                campaign_id=campaign_id,
                perspective_id=number,
                name=perspective.name,
                version=perspective.version,
                digest=task.digest,
                body=task.body(),
                tier=Tier.parse(use.tier),
                credit=use.credit,
            )
            rows.append(row)
            source = f"{written.name}/{perspective.name}/{perspective.version}"
            await annotations.add_source(tx, source, answer_schema(perspective), policy.output_license, now)
        await campaigns.add_tasks(tx, rows)
        return campaign_id

    names = [perspective.name for _, perspective in perspectives]
    twins = {name for name in names if names.count(name) > 1}
    if twins:
        raise OperatorError("perspective_invalid", f"The campaign names {', '.join(sorted(twins))} twice.")
    return await db.transaction("create campaign", body)


class Campaigns:
    """Every campaign, by id. Tasks never change once made; `refresh` reads policies and states again."""

    def __init__(self, db: Database, rng: random.Random) -> None:
        self._db = db
        self._rng = rng
        self._known: dict[int, Campaign] = {}
        self._tasks: dict[tuple[int, int], CampaignTask] = {}
        self._backgrounds: dict[tuple[int, int], Background] = {}
        self._targets: dict[int, frozenset[str]] = {}
        self._target_hosts: frozenset[str] = frozenset()

    def need(self, campaign_id: int) -> Campaign:
        """The campaign of this id, which a caller has made known before."""
        return self._known[campaign_id]

    async def find(self, campaign_id: int) -> Campaign | None:
        """The campaign of this id, read from the database where it is new here; None where there is none."""
        if campaign_id not in self._known:
            await self.refresh()
        return self._known.get(campaign_id)

    async def know(self, campaign_ids: Collection[int]) -> None:
        """Reads the campaigns from the database, once, where one of these is not known here."""
        if not self._known.keys() >= set(campaign_ids):
            await self.refresh()

    def running(self) -> list[Campaign]:
        """Those that hand out work."""
        return [campaign for campaign in self._known.values() if campaign.running]

    def all(self) -> list[Campaign]:
        """Every one that is known here."""
        return list(self._known.values())

    def targets_of(self, host_id: int, user_id: int) -> frozenset[str]:
        """What campaigns call this host, its user and its team, of those whom a campaign is only for."""
        targets = self._targets.get(user_id, NOBODY)
        return targets | {f"host:{host_id}"} if f"host:{host_id}" in self._target_hosts else targets

    async def refresh(self) -> None:
        """Reads campaigns and tasks from the database, and whom some of them are only for."""

        async def body(tx: Transaction) -> tuple[list[campaigns.CampaignRow], list[TaskRow]]:
            return await campaigns.all_campaigns(tx), await campaigns.all_tasks(tx)

        campaign_rows, task_rows = await self._db.transaction("campaigns", body)
        for row in task_rows:
            key = (row.campaign_id, row.perspective_id)
            if key not in self._tasks:
                self._tasks[key] = CampaignTask(row, Task.parse(row.body))
        self._known = {
            row.id: Campaign(
                id=row.id,
                name=row.name,
                state=row.state,
                policy=policy_of(row.policy),
                tasks={p: task for (c, p), task in self._tasks.items() if c == row.id},
            )
            for row in campaign_rows
        }
        wanted = {target for campaign in self._known.values() for target in campaign.policy.only_for}
        self._target_hosts = frozenset(target for target in wanted if target.startswith("host:"))
        found = await self._db.transaction("targets", lambda tx: users.named(tx, wanted)) if wanted else []
        by_user: defaultdict[int, set[str]] = defaultdict(set)
        for user_id, target in found:
            by_user[user_id].add(target)
        self._targets = {user_id: frozenset(targets) for user_id, targets in by_user.items()}

    async def background(self, campaign_id: int, perspective_id: int) -> Background:
        """What other images' answers look like; filled from the database when first asked for."""
        key = (campaign_id, perspective_id)
        if key not in self._backgrounds:
            perspective, policy = self._tasks[key].task.perspective, self._known[campaign_id].policy
            background = Background(self._rng)

            async def body(tx: Transaction) -> list[tuple[int, dict[str, Any]]]:
                return await results.recent_answers(tx, campaign_id, perspective_id, BACKGROUND_ANSWERS)

            for content_id, answer in await self._db.transaction("background", body):
                background.add(content_id, policy.features(answer, perspective).tokens)
            self._backgrounds.setdefault(key, background)
        return self._backgrounds[key]


async def find_row(db: Database, name: str) -> campaigns.CampaignRow:
    """The campaign of that name. Raises OperatorError("campaign_unknown") that names those there are."""

    async def body(tx: Transaction) -> tuple[campaigns.CampaignRow | None, list[str]]:
        return await campaigns.find(tx, name), [row.name for row in await campaigns.all_campaigns(tx)]

    found, known = await db.transaction("campaign", body)
    if found is None:
        there = (
            f"There are: {', '.join(known)}."
            if known
            else "There is none yet: chorus admin campaign create FILE.toml"
        )
        raise OperatorError("campaign_unknown", f"There is no campaign '{name}'. {there}")
    return found


async def set_state(db: Database, name: str, state: str) -> None:
    """Pauses ("paused") or resumes ("running") a campaign; coordinators notice within a second.

    Raises OperatorError("campaign_cancelled").
    """
    campaign = await find_row(db, name)
    refuse_cancelled(name, campaign.state)
    await db.transaction("set state", lambda tx: campaigns.set_state(tx, campaign.id, state))


def refuse_cancelled(name: str, state: str) -> None:
    """Raises OperatorError("campaign_cancelled") where the campaign is."""
    if state == "cancelled":
        raise OperatorError(
            "campaign_cancelled",
            f"Campaign '{name}' is cancelled. To take it up again: chorus admin campaign reopen {name}",
        )
