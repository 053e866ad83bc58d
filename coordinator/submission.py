"""Submit: from images and a campaign's tasks to signed units on their shelves."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.campaigns import Campaign, refuse_cancelled
from coordinator.priority import block_of
from protos import signing
from store import campaigns, units
from store.database import Transaction
from store.shelves import SHUFFLE_RANGE
from store.units import NewUnit

BLOCK_UNITS = 2000
TASK_VERSION = 1
KIND = "caption"


@dataclass(frozen=True, slots=True)
class Submitted:
    """How many units were born, and the ids that were set aside for them."""

    born: int
    ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Subject:
    """An image to caption: its id and the SHA-256 of its derivative."""

    content_id: int
    image_hash: bytes


async def submit(
    tx: Transaction,
    campaign: Campaign,
    subjects: Sequence[Subject],
    key: Ed25519PrivateKey,
    rng: random.Random,
    now: datetime,
    priority: int = 0,
) -> Submitted:
    """Births one unit per subject and task. Submitting again births nothing twice.

    Units of one import lie together in blocks of about BLOCK_UNITS per task, in random order inside. Those
    of one image lie at the same place on every perspective's shelf: a host may go on with an image it has.
    Raises OperatorError("campaign_cancelled").
    """
    refuse_cancelled(campaign.name, (await campaigns.hold(tx, campaign.id)).state)
    if not subjects:
        return Submitted(0, [])
    tasks = sorted(campaign.tasks.items())
    reserved = await units.reserve_ids(tx, len(subjects) * len(tasks))
    ids = iter(reserved)
    rows = []
    for subject in subjects:
        own = [next(ids) for _ in tasks]
        block = block_of(own[0] // (BLOCK_UNITS * len(tasks)), priority)
        shuffle = rng.randrange(SHUFFLE_RANGE)
        for unit_id, (perspective_id, task) in zip(own, tasks, strict=True):
            message = signing.unit(campaign.id, unit_id, KIND, task.row.digest, subject.image_hash, "")
            row = NewUnit(
                campaign_id=campaign.id,
                id=unit_id,
                kind=KIND,
                perspective_id=perspective_id,
                content_id=subject.content_id,
                task_version=TASK_VERSION,
                ordinal=0,
                tier=task.row.tier,
                block=block,
                shuffle=shuffle,
                image_hash=subject.image_hash,
                params="",
                signature=key.sign(message),
                created_at=now,
            )
            rows.append(row)
    tx.tell_everyone()
    return Submitted(len(await units.add(tx, rows)), reserved)
