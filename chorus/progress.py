"""The import command's work, with a progress bar."""

import ipaddress
import random
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chorus.operator import open_database
from coordinator.campaigns import Campaigns, find_row
from coordinator.clock import now
from coordinator.errors import OperatorError
from coordinator.fetching import Fetcher
from coordinator.importer import Importer, ImportReport, NewBatch
from coordinator.keys import keys_of
from coordinator.objects import Objects
from coordinator.settings import Settings
from coordinator.sources import Source, SourceFault, read_sources


async def import_with_progress(
    settings: Settings, campaign_name: str, path: Path, batch: NewBatch, networks: list[str]
) -> ImportReport:
    """Imports `path` into the campaign of that name. Raises OperatorError("campaign_unknown", …)."""
    try:
        allowed = [ipaddress.ip_network(network) for network in networks]
    except ValueError as error:
        raise OperatorError("network_invalid", f"{error}; write it like 10.1.0.0/16") from error
    async with open_database(settings) as db, Fetcher(allowed_networks=allowed) as fetcher:
        rng = random.SystemRandom()
        campaigns = Campaigns(db, rng)
        await campaigns.refresh()
        campaign = campaigns.need((await find_row(db, campaign_name)).id)
        objects = Objects(settings.objects_folder)
        importer = Importer(db, campaign, objects, keys_of(settings), fetcher, rng, now, batch)
        columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            total = sum(isinstance(item, Source | SourceFault) for item in read_sources(path))
            shown = bar.add_task("importing", total=total)
            return await importer.run(path, lambda report: bar.update(shown, completed=report.seen))
