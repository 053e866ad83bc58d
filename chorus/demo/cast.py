"""Who plays in the demo: model servers and volunteers, each a real process."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus.processes import Child, StartError, python

READER_NOISE = 0.03


@dataclass(frozen=True, slots=True)
class Role:
    """One volunteer: how its model behaves, and whether it is killed in the middle."""

    name: str
    conduct: str
    behaviour: str = "honest"
    killed: bool = False


SCENE_CAST = (
    Role("ada", "honest"),
    Role("ben", "honest"),
    Role("cleo", "honest"),
    Role("dora", "answers for other images", behaviour="other_image"),
    Role("gus", "same sentence to all", behaviour="generic"),
    Role("kim", "killed in the middle", killed=True),
)
PHOTO_CAST = SCENE_CAST[:3]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model to ask: base URL with /v1, and its name."""

    url: str
    model: str


def reader(number: int, role: Role, folder: Path) -> Child:
    """A small model server that looks at the scenes in `role`'s way."""
    command = python(
        "-m",
        "chorus.demo.reader",
        "--model",
        f"reader-{role.name}",
        "--seed",
        str(number),
        "--noise",
        str(READER_NOISE),
        "--behaviour",
        role.behaviour,
        "--parent-pid",
        str(os.getpid()),
    )
    return Child(f"reader of {role.name}", command, {}, folder / f"reader-{role.name}.log")


async def join(role: Role, invite: str, folder: Path) -> None:
    """Enrols a volunteer's host, as its owner would."""
    child = Child(
        f"join of {role.name}",
        python(
            "-m",
            "chorus",
            "volunteer",
            "join",
            invite,
            "--home",
            str(folder / role.name),
            "--name",
            role.name,
        ),
        {},
        folder / f"join-{role.name}.log",
        says_ready=False,
    )
    await child.start()
    if await child.ended() != 0:
        raise StartError(f"{role.name} could not join:\n{child.log_file.read_text('utf-8', 'replace')}")


def volunteer(number: int, role: Role, endpoint: Endpoint, folder: Path) -> Child:
    """A volunteer's client, as its owner would start it, but that it ends where the demo is killed."""
    command = python(
        "-m",
        "chorus.demo.tied",
        "volunteer",
        "run",
        "--home",
        str(folder / role.name),
        "--endpoint",
        endpoint.url,
        "--model",
        endpoint.model,
        "--seed",
        str(number),
        "--json-log",
    )
    return Child(
        f"volunteer {role.name}", command, {}, folder / f"volunteer-{role.name}.log", says_ready=False
    )


def acknowledged(logs: Sequence[Path]) -> set[tuple[int, int]]:
    """(campaign id, unit id) of every result that these volunteers were told is safe."""
    found = set()
    for log in logs:
        for line in log.read_text("utf-8", "replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "acknowledged":
                for name in event["units"].split():
                    campaign, _, unit = name.partition("/")
                    found.add((int(campaign), int(unit)))
    return found
