"""A leased unit, believed only after its signatures: a volunteer runs no stranger's prompt."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from captions.task import Task, TaskError
from protos import signing, work_pb2

KINDS = frozenset({"caption"})


class Ref(NamedTuple):
    """Names a unit."""

    campaign_id: int
    unit_id: int

    def message(self) -> work_pb2.UnitRef:
        """The reference on the wire."""
        return work_pb2.UnitRef(campaign_id=self.campaign_id, unit_id=self.unit_id)

    def __str__(self) -> str:
        return f"{self.campaign_id}/{self.unit_id}"


class UnfitError(Exception):
    """A unit that is not shown to the model. `code` is stable and goes to the coordinator."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Lease:
    """One unit, verified, with the task that it names."""

    unit: work_pb2.Unit
    task_body: bytes
    task: Task
    prompt: str

    @property
    def ref(self) -> Ref:
        """The unit's name."""
        return Ref(self.unit.campaign_id, self.unit.unit_id)


def verify_lease(unit: work_pb2.Unit, task_body: bytes | None, coordinator_key: bytes) -> Lease:
    """Checks a unit against the coordinator's key and its task's digest. Raises UnfitError."""
    if unit.kind not in KINDS:
        raise UnfitError("kind_unknown")
    if task_body is None or hashlib.sha256(task_body).digest() != unit.task_digest:
        raise UnfitError("task_digest_wrong")
    message = signing.unit(
        unit.campaign_id, unit.unit_id, unit.kind, unit.task_digest, unit.image_hash, unit.params
    )
    if not signing.verify(coordinator_key, unit.signature, message):
        raise UnfitError("unit_signature_wrong")
    if len(unit.image_hash) != 32:
        raise UnfitError("image_missing")
    try:
        task = Task.parse(task_body)
        return Lease(unit, task_body, task, task.prompt(unit.params))
    except TaskError:
        raise UnfitError("task_unreadable") from None


def verify_batch(
    batch: work_pb2.LeaseBatch, host_id: int, coordinator_key: bytes
) -> tuple[list[Lease], Mapping[str, list[Ref]]]:
    """Sorts a batch into leases to work on, and units to release by reason."""
    leases: list[Lease] = []
    unfit: dict[str, list[Ref]] = {}
    bodies = {hashlib.sha256(task.body).digest(): task.body for task in batch.tasks}
    message = signing.lease_batch(host_id, batch.lease_s, batch.units)
    is_ours = signing.verify(coordinator_key, batch.signature, message)
    for unit in batch.units:
        try:
            if not is_ours:
                raise UnfitError("lease_signature_wrong")
            leases.append(verify_lease(unit, bodies.get(unit.task_digest), coordinator_key))
        except UnfitError as fault:
            unfit.setdefault(fault.code, []).append(Ref(unit.campaign_id, unit.unit_id))
    return leases, unfit
