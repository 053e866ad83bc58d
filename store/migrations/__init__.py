"""The line of migrations."""

from pathlib import Path


def newest() -> str:
    """The revision that this version of Chorus brings a database to: files are named by their revision."""
    return max(file.name for file in (Path(__file__).parent / "versions").glob("[0-9]*.py")).partition("_")[0]
