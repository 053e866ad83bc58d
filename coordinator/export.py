"""Export: a campaign's published annotations as JSON lines, with a metadata file beside them."""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from store import annotations
from store.annotations import ExportRow
from store.campaigns import CampaignRow
from store.database import Database

FORMAT_VERSION = "1"
LINES = "annotations.jsonl"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How many annotations and images were written, and where."""

    annotations: int
    images: int
    folder: Path


async def export(db: Database, campaign: CampaignRow, folder: Path, now: datetime) -> ExportReport:
    """Writes annotations.jsonl, then metadata.json with its SHA-256, into `folder`.

    Each file appears whole or not at all. Where a crash came between the two, the SHA-256 tells, and
    exporting again mends it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{LINES}.part"
    digest, images, licenses, count = hashlib.sha256(), set(), Counter[str](), 0
    with unfinished.open("wb") as file:
        async for row in annotations.published(db, campaign.id):
            line = json.dumps(dataset_line(row), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
            if row.hash not in images:
                images.add(row.hash)
                licenses[row.license or "unknown"] += 1
            count += 1
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / LINES)
    metadata = {
        "format": "chorus-annotations",
        "version": FORMAT_VERSION,
        "location": LINES,
        "sha256": digest.hexdigest(),
        "campaign": campaign.name,
        "exported_at": now.isoformat(timespec="seconds"),
        "annotations": count,
        "images": len(images),
        "annotation_license": campaign.policy["output_license"],
        "image_licenses": dict(sorted(licenses.items())),
        "policy": campaign.policy,
    }
    unfinished = folder / "metadata.json.part"
    with unfinished.open("w", encoding="utf-8") as text:
        json.dump(metadata, text, indent=2, ensure_ascii=False)
        text.write("\n")
        text.flush()
        os.fsync(text.fileno())
    unfinished.replace(folder / "metadata.json")
    return ExportReport(count, len(images), folder)


def dataset_line(row: ExportRow) -> dict[str, Any]:
    """One line after graphcap's dataset format, and beside it what cross-checking adds."""
    return {
        "filename": row.filename,
        "config_name": row.perspective,
        "version": row.perspective_version,
        "model": row.model,
        "provider": row.endpoint,
        "parsed": row.annotation,
        "image": {
            "sha256": row.hash.hex(),
            "derivative_sha256": row.derivative_hash.hex(),
            "width": row.width,
            "height": row.height,
            "url": None if row.url.startswith("file:") else row.url,
            "license": row.license,
            "attribution": row.attribution,
            "metadata": row.meta,
        },
        "annotation_id": row.id,
        "annotation_version": row.version,
        "manually_adjusted": row.manually_adjusted,
        "confidence": row.confidence,
        "provenance": {
            "unit": row.unit_id,
            "numbers": row.verdict.get("numbers", {}),
            "results": row.results,
        },
    }
