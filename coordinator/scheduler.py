"""Which shelf a host draws from, decided in memory from a picture of the shelves and campaigns."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

from coordinator.campaigns import Campaign
from coordinator.idle import Idle
from coordinator.priority import priority_of
from protos.tier import Tier
from store.shelves import SHUFFLE_RANGE, Row, Shelf

KINDS_OF_HOSTS = 1000


@dataclass(frozen=True, slots=True)
class Ability:
    """What a host can do: the tier that it holds, the names of perspectives (none: any), its model.

    The model is "" where the client does not tell it. `targets` are the names by which campaigns that are
    only for some call it.
    """

    tier: Tier
    perspectives: frozenset[str] = frozenset()
    model: str = ""
    targets: frozenset[str] = frozenset()

    def does(self, campaign: Campaign, perspective_id: int) -> bool:
        """Whether it was asked to do this perspective of a campaign."""
        task = campaign.tasks.get(perspective_id)
        return task is not None and (not self.perspectives or task.row.name in self.perspectives)


@dataclass(frozen=True, slots=True)
class Fitting:
    """What waits for hosts of one ability: shelves by lowness, commonness and campaign, best first.

    Lowness is a priority, the other way round; common is what is for all. Shelves that are equally good lie
    together. `rows` has the highest lane of those that differ by lane alone.
    """

    groups: dict[tuple[int, bool, int], list[list[Shelf]]]
    rows: dict[Row, Shelf]


@dataclass(frozen=True, slots=True)
class Picture:
    """What waits: shelves and campaigns as last read, and what that means for hosts that have asked since."""

    shelves: Sequence[Shelf] = ()
    campaigns: Mapping[int, Campaign] = field(default_factory=dict)
    _known: dict[Ability, Fitting] = field(default_factory=dict)

    def fitting(self, ability: Ability) -> Fitting:
        """What waits for such a host."""
        known = self._known.get(ability)
        if known is None:
            if len(self._known) >= KINDS_OF_HOSTS:
                del self._known[next(iter(self._known))]
            known = self._known[ability] = self._fit(ability)
        return known

    def _fit(self, ability: Ability) -> Fitting:
        fit: defaultdict[tuple[int, bool, int], list[Shelf]] = defaultdict(list)
        for shelf in self.shelves:
            campaign = self.campaigns.get(shelf.campaign_id)
            if campaign is not None and _fits(shelf, campaign, ability):
                key = (-priority_of(shelf.block), not campaign.policy.only_for, shelf.campaign_id)
                fit[key].append(shelf)
        return Fitting(
            groups={key: _ranked(shelves) for key, shelves in fit.items()},
            rows={shelf.row: shelf for shelves in fit.values() for shelf in sorted(shelves, key=_lane)},
        )

    def why_nothing(self, ability: Ability) -> Idle:
        """Why such a host has nothing to do, by the first thing that would have to change."""
        waiting = [(s, c) for s in self.shelves if (c := self.campaigns.get(s.campaign_id)) is not None]
        waiting = [(s, c) for s, c in waiting if c.policy.is_for(ability.targets)]
        running = [(shelf, campaign) for shelf, campaign in waiting if campaign.running]
        if not running:
            states = {campaign.state for _, campaign in waiting} or {c.state for c in self.campaigns.values()}
            is_paused = "paused" in states and "running" not in states
            return Idle.PAUSED_BY_OPERATOR if is_paused else Idle.NO_WORK
        asked = [(s, campaign) for s, campaign in running if ability.does(campaign, s.perspective_id)]
        if not asked:
            return Idle.NO_WORK_FOR_PERSPECTIVES
        allowed = [shelf for shelf, campaign in asked if campaign.policy.takes_model(ability.model)]
        if not allowed:
            return Idle.NO_WORK_FOR_MODEL
        if not any(shelf.tier <= ability.tier for shelf in allowed):
            return Idle.NO_WORK_FOR_TIER
        return Idle.NO_WORK


def _lane(shelf: Shelf) -> int:
    return shelf.lane


def _fits(shelf: Shelf, campaign: Campaign, ability: Ability) -> bool:
    return (
        campaign.running
        and campaign.policy.is_for(ability.targets)
        and shelf.tier <= ability.tier
        and ability.does(campaign, shelf.perspective_id)
        and campaign.policy.takes_model(ability.model)
    )


def _ranked(shelves: list[Shelf]) -> list[list[Shelf]]:
    """The largest tier first, so that small work is left to small hosts; then the highest lane, so that units
    which were begun end.
    """

    def rank(shelf: Shelf) -> tuple[int, int]:
        return -shelf.tier, -shelf.lane

    return [list(equal) for _, equal in groupby(sorted(shelves, key=rank), key=rank)]


class Scheduler:
    """The picture as last shown, and how much each campaign was served for its weight."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._picture = Picture()
        self._served: defaultdict[int, float] = defaultdict(float)
        self._floor = 0.0

    @property
    def picture(self) -> Picture:
        """What waits."""
        return self._picture

    def show(self, shelves: Sequence[Shelf], campaigns: Sequence[Campaign]) -> None:
        """Takes a new picture of the shelves."""
        before = {shelf.campaign_id for shelf in self._picture.shelves}
        self._floor = min((self._served[campaign_id] for campaign_id in before), default=self._floor)
        for campaign_id in {shelf.campaign_id for shelf in shelves} - before:
            # A campaign that had nothing for long must not take everything when it has something again.
            self._served[campaign_id] = max(self._served[campaign_id], self._floor)
        self._picture = Picture(list(shelves), {campaign.id: campaign for campaign in campaigns})

    def order(self, ability: Ability, most: int | None = None) -> list[Shelf]:
        """The shelves that such a host can serve, best first, at most so many.

        The highest priority comes first; then what is only for such hosts; then the campaign that was served
        least for its weight. `_ranked` has the order inside.
        """
        return list(islice(self._order(ability), most))

    def _order(self, ability: Ability) -> Iterator[Shelf]:
        groups, random_ = self._picture.fitting(ability).groups, self._rng.random
        for key in sorted(groups, key=lambda key: (key[:2], self._served[key[2]], random_())):
            for equal in groups[key]:
                first = int(random_() * len(equal))  # equally good shelves take turns
                yield from equal[first:]
                yield from equal[:first]

    def start(self, shelf: Shelf) -> tuple[int, int]:
        """A random place in the leading block of a shelf, so that claims do not queue at its front."""
        return shelf.block, self._rng.randrange(SHUFFLE_RANGE)

    def served(self, campaign_id: int, count: int) -> None:
        """Notes that a campaign had `count` replicas leased."""
        campaign = self._picture.campaigns.get(campaign_id)
        self._served[campaign_id] += count / (1.0 if campaign is None else campaign.policy.weight)

    def retry_ms(self, idle: Idle) -> int:
        """When a host that got nothing may ask again."""
        return idle.retry_ms(self._rng)
