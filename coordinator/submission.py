"""Submit: from images and a campaign's tasks to signed units on their shelves."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.campaigns import Campaign
from protos import signing
from store import units
from store.database import Transaction
from store.shelves import SHUFFLE_RANGE
from store.units import NewUnit

BLOCK_UNITS = 2000
TASK_VERSION = 1
KIND = "caption"


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
) -> int:
    """Births one unit per subject and task; gives how many are new. Submitting again births nothing twice.

    Units of one import lie together in blocks of about BLOCK_UNITS per task, in random order inside.
    """
    if not subjects:
        return 0
    tasks = sorted(campaign.tasks.items())
    ids = iter(await units.reserve_ids(tx, len(subjects) * len(tasks)))
    rows = []
    for subject in subjects:
        for perspective_id, task in tasks:
            unit_id = next(ids)
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
                block=unit_id // (BLOCK_UNITS * len(tasks)),
                shuffle=rng.randrange(SHUFFLE_RANGE),
                image_hash=subject.image_hash,
                params="",
                signature=key.sign(message),
                created_at=now,
            )
            rows.append(row)
    return len(await units.add(tx, rows))
