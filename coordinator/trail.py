"""What hosts drew last, so that the other perspectives of an image go to those who have fetched it."""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from coordinator.campaigns import Campaign
from coordinator.priority import priority_of
from coordinator.scheduler import Ability
from store.shelves import SHUFFLE_RANGE, Candidate, Row, Spot

HOSTS = 5_000
IMAGES = 128  # that a host is expected to have at hand


@dataclass(frozen=True, slots=True)
class Trail:
    """Where one host may go on: the places of images that it has, by perspective that it did not do there.

    A place is block × SHUFFLE_RANGE + shuffle: one number, because there are many.
    """

    campaign_id: int
    tier: int
    ahead: dict[int, deque[int]]


class Trails:
    """The trail of every host that was served here lately; bounded."""

    def __init__(self) -> None:
        self._of: OrderedDict[int, Trail] = OrderedDict()

    def drew(
        self,
        host_id: int,
        held: Sequence[Candidate],
        followed: Sequence[Spot],
        campaign: Campaign,
        ability: Ability,
    ) -> None:
        """Notes a draw, all of one perspective: what was not followed there is new on the host's trail."""
        if len(campaign.tasks) == 1:
            return
        known = set(followed)
        drawn = [one for one in held if one.spot not in known]
        if not drawn:
            return
        tier, done = held[0].tier, held[0].perspective_id
        able = [
            p for p, task in campaign.tasks.items() if task.row.tier == tier and ability.does(campaign, p)
        ]
        trail = self._of.pop(host_id, None)
        if trail is None or (trail.campaign_id, trail.tier, [*trail.ahead]) != (campaign.id, tier, able):
            trail = Trail(campaign.id, tier, {p: deque(maxlen=IMAGES) for p in able})
        places = [one.block * SHUFFLE_RANGE + one.shuffle for one in drawn]
        for perspective_id, ahead in trail.ahead.items():
            if perspective_id != done:
                ahead.extend(places)
        self._of[host_id] = trail
        if len(self._of) > HOSTS:
            self._of.popitem(last=False)

    def follow(
        self, host_id: int, waiting: Collection[Row], room: Callable[[Row], int], priority: int
    ) -> list[Spot]:
        """Spots where the host goes on, as many as there is `room`, of the perspective that lags most.

        `waiting` tells of which something waits for the host. Nothing below `priority` is given, none twice.
        """
        trail = self._of.get(host_id)
        if trail is None:
            return []
        rows = [(trail.campaign_id, p, trail.tier) for p in trail.ahead]
        row = max(
            (row for row in rows if row in waiting), key=lambda row: len(trail.ahead[row[1]]), default=None
        )
        if row is None:
            del self._of[host_id]
            return []
        ahead = trail.ahead[row[1]]
        if ahead and priority_of(ahead[0] // SHUFFLE_RANGE) < priority:
            return []
        return [
            Spot(*row, *divmod(ahead.popleft(), SHUFFLE_RANGE)) for _ in range(min(room(row), len(ahead)))
        ]
