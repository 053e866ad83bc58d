"""`chorus demo`: a newcomer's minute. A whole coordinator and its volunteers, for real, on one machine."""

import asyncio
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live

from chorus.demo import cast
from chorus.demo.cast import Endpoint, Role
from chorus.demo.report import Tally, VolunteerTally, judge_caption, judge_objects, table
from chorus.demo.scenes import Scene, make_scenes, render
from chorus.processes import Child
from chorus.status_view import status_table
from chorus.up import Running, coordinator, make_invite
from coordinator import campaigns as campaign_commands
from coordinator.campaigns import Campaigns, find_row
from coordinator.clock import now
from coordinator.errors import OperatorError
from coordinator.export import export
from coordinator.fetching import Fetcher
from coordinator.importer import Importer
from coordinator.keys import keys_of
from coordinator.objects import Objects
from coordinator.outcome import HostOutcome, Outcome, read_outcome
from coordinator.policy import read_campaign
from coordinator.settings import Settings
from coordinator.status import read_status
from protos.tier import Tier
from store import leases
from store.database import Database

HERE = Path(__file__).parent
PHOTOS = HERE / "photos"
LOOK_S = 0.25
STILL_S = 90.0  # without any progress for so long, the demo gives up and counts what is open as lost


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: rendered scenes where there is no endpoint, else photos and honest volunteers."""

    scenes: int
    seed: int
    endpoint: Endpoint | None
    images: Path | None
    limit: int | None
    out: Path | None
    json_file: Path | None
    once: bool

    @property
    def campaign(self) -> str:
        """The name of the campaign that the demo creates."""
        return "scenes" if self.endpoint is None else "photos"


async def demo(plan: Plan) -> bool:
    """Runs the plan and prints its table; gives whether nothing was lost and nothing wrong accepted."""
    began = time.monotonic()
    console = Console()
    _check_outputs(plan)
    folder = Path(tempfile.mkdtemp(prefix="chorus-demo-"))
    folder.chmod(0o711)  # ours: PostgreSQL's user has to pass where we are root
    try:
        settings = Settings(data=folder / "data", port=0, images_port=0, metrics_port=0)
        console.print(f"Starting a coordinator in {folder} …")
        roles = cast.SCENE_CAST if plan.endpoint is None else cast.PHOTO_CAST
        async with _readers(plan, roles, folder) as endpoints, coordinator(settings) as running:
            db = Database.connect(running.settings.database_url or "", pool_size=2)
            try:
                tally = await _play(plan, roles, endpoints, running, db, folder, began, console)
                console.print(table(tally))
                if not plan.once:
                    await _stay(running, console)
            finally:
                await db.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if plan.json_file is not None:
        plan.json_file.write_text(tally.to_json(), "utf-8")
    return tally.sound


def _check_outputs(plan: Plan) -> None:
    """Fails before the work rather than after it, where results cannot be written."""
    if plan.out is not None:
        plan.out.mkdir(parents=True, exist_ok=True)
        (plan.out / "metadata.json").touch()
    if plan.json_file is not None:
        plan.json_file.touch()


@contextlib.asynccontextmanager
async def _readers(plan: Plan, roles: Sequence[Role], folder: Path) -> AsyncIterator[dict[str, Endpoint]]:
    """The endpoint of each volunteer: a model server of its own, or the one that the plan names."""
    if plan.endpoint is not None:
        yield {role.name: plan.endpoint for role in roles}
        return
    readers = {role.name: cast.reader(number, role, folder) for number, role in enumerate(roles, 1)}
    try:
        await asyncio.gather(*(reader.start() for reader in readers.values()))
        yield {
            name: Endpoint(f"http://127.0.0.1:{reader.ready['port']}/v1", f"reader-{name}")
            for name, reader in readers.items()
        }
    finally:
        await asyncio.gather(*(reader.stop() for reader in readers.values()))


async def _play(
    plan: Plan,
    roles: Sequence[Role],
    endpoints: Mapping[str, Endpoint],
    running: Running,
    db: Database,
    folder: Path,
    began: float,
    console: Console,
) -> Tally:
    scenes = make_scenes(plan.scenes, plan.seed) if plan.endpoint is None else []
    images = _draw(scenes, folder / "scenes") if scenes else _choose(plan, folder / "photos")
    await _create(plan, images, running.settings, db)
    keys = keys_of(running.settings)
    invites = [
        await make_invite(running.settings, db, keys, user=role.name, tier=Tier.G80, uses=1, days=1)
        for role in roles
    ]
    await asyncio.gather(*(cast.join(r, i, folder) for r, i in zip(roles, invites, strict=True)))
    volunteers = {
        role.name: cast.volunteer(number, role, endpoints[role.name], folder)
        for number, role in enumerate(roles, 1)
    }
    try:
        await asyncio.gather(*(volunteer.start() for volunteer in volunteers.values()))
        console.print(
            f"{len(roles)} volunteers joined: " + ", ".join(f"{r.name} ({r.conduct})" for r in roles)
        )
        await _watch(db, roles, volunteers, console)
    finally:
        await asyncio.gather(*(volunteer.stop() for volunteer in volunteers.values()))
    campaign = await find_row(db, plan.campaign)
    outcome = await read_outcome(db, campaign.id)
    if plan.out is not None:
        report = await export(db, campaign, plan.out, now())
        console.print(f"{report.annotations} annotations exported to {plan.out}")
    return _tally(await read_status(db), outcome, roles, volunteers, scenes, time.monotonic() - began)


def _draw(scenes: Sequence[Scene], folder: Path) -> Path:
    folder.mkdir()
    for scene in scenes:
        (folder / f"{scene.name}.png").write_bytes(render(scene))
    (folder.parent / "truth.json").write_text(json.dumps([scene.truth() for scene in scenes]), "utf-8")
    return folder


def _choose(plan: Plan, folder: Path) -> Path:
    """The photos to caption: the first `limit` by name, as links in a folder of their own."""
    source = plan.images or PHOTOS
    if not source.is_dir():
        raise OperatorError("images_missing", f"There is no folder {source}. Name one with --images.")
    names = sorted(p for p in source.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    if not names:
        raise OperatorError("images_missing", f"There is no image in {source}.")
    lines = [json.dumps({"path": str(path.resolve())}) for path in names[: plan.limit]]
    folder.mkdir()
    listed = folder / "photos.jsonl"
    listed.write_text("\n".join(lines) + "\n", "utf-8")
    return listed


async def _create(plan: Plan, images: Path, settings: Settings, db: Database) -> None:
    written, perspectives = read_campaign(HERE / f"{plan.campaign}.toml")
    await campaign_commands.create(db, written, perspectives, now())
    async with Fetcher() as fetcher:
        rng = random.SystemRandom()
        campaigns = Campaigns(db, rng)
        await campaigns.refresh()
        campaign = campaigns.need((await find_row(db, plan.campaign)).id)
        objects = Objects(settings.objects_folder)
        importer = Importer(db, campaign, objects, keys_of(settings), fetcher, rng, now)
        report = await importer.run(images, lambda _report: None)
    for refusal in report.refused:
        print(f"skipped {refusal.name}: {refusal.detail} [{refusal.code}]")


async def _watch(
    db: Database, roles: Sequence[Role], volunteers: Mapping[str, Child], console: Console
) -> None:
    """Shows the status until all is settled and booked; kills whom the cast says once they hold work."""
    to_kill = [role for role in roles if role.killed]
    notes: list[str] = []
    changed, last = time.monotonic(), (-1, -1)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            status = await read_status(db)
            campaign = status["campaigns"][0]
            live.update(Group(status_table(status), *notes))
            ended = campaign["accepted"] + campaign["exhausted"]
            if campaign["open"] == 0 and campaign["annotations"] == campaign["accepted"]:
                break
            if to_kill and campaign["results"]:
                held = await db.transaction("held", lambda tx: leases.count_held(tx, to_kill[0].name))
                if held:
                    victim = to_kill.pop()
                    volunteers[victim.name].kill()
                    notes.append(f"{victim.name} was killed by kill -9 while holding {held} units")
            if (ended, campaign["results"]) != last:
                changed, last = time.monotonic(), (ended, campaign["results"])
            elif time.monotonic() - changed > STILL_S:
                notes.append(f"No progress for {STILL_S:.0f} s: giving up.")
                break
            await asyncio.sleep(LOOK_S)
    for note in notes:
        console.print(note)


def _tally(
    status: dict[str, object],
    outcome: Outcome,
    roles: Sequence[Role],
    volunteers: Mapping[str, Child],
    scenes: Sequence[Scene],
    seconds: float,
) -> Tally:
    campaign = status["campaigns"][0]  # type: ignore[index]  # read_status gives a list here
    by_name = {host.host_name: host for host in outcome.hosts}
    promised = {
        (*ref, name)
        for name, volunteer in volunteers.items()
        for ref in cast.acknowledged([volunteer.log_file])
    }
    correct = _count_true(outcome, scenes) if scenes else None
    lines = []
    for role in roles:
        host = by_name.get(role.name) or HostOutcome(role.name, 0, 0, 0, 0)
        disagreed = host.repeated + host.differing
        line = VolunteerTally(
            name=role.name,
            conduct=role.conduct,
            results=host.results,
            agreed=host.agreed,
            refused=disagreed,
            unjudged=host.results - host.agreed - disagreed,
        )
        lines.append(line)
    refused = {
        "differs_from_the_others": sum(host.differing for host in outcome.hosts),
        "same_answer_to_many_images": sum(host.repeated for host in outcome.hosts),
    }
    return Tally(
        images=campaign["images"],
        units=campaign["units"],
        results=campaign["results"],
        accepted=campaign["accepted"],
        exhausted=campaign["exhausted"],
        lost=campaign["open"] + len(promised - outcome.stored),
        seconds=round(seconds, 1),
        refused={reason: count for reason, count in refused.items() if count},
        unjudged=sum(line.unjudged for line in lines),
        truth_correct=correct,
        wrong_accepted=None if correct is None else len(outcome.accepted) - correct,
        volunteers=tuple(lines),
    )


def _count_true(outcome: Outcome, scenes: Sequence[Scene]) -> int:
    truth = {f"{scene.name}.png": scene for scene in scenes}
    true = 0
    for unit in outcome.accepted:
        scene = truth[unit.filename]
        if unit.perspective == "scene_caption":
            true += judge_caption(unit.answer["caption"], scene)
        else:
            true += judge_objects(unit.answer, scene)
    return true


async def _stay(running: Running, console: Console) -> None:
    console.print(
        f"The coordinator stays up to look around: chorus admin status --data {running.settings.data}\n"
        "Ctrl-C ends it and removes its folder."
    )
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
