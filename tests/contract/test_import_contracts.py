"""Rooms import only downwards (pyproject.toml says which contracts there are)."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_every_import_contract_is_kept():
    linted = _lint(ROOT)
    assert linted.returncode == 0, linted.stdout
    assert "0 broken" in linted.stdout


def test_an_import_upwards_would_be_seen(tmp_path: Path):
    for room in ("captions", "chorus", "coordinator", "protos", "store", "volunteer_client"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.jpg", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "store" / "users.py").open("a") as module:
        module.write("\nimport coordinator.work\n")
    linted = _lint(tmp_path)
    assert linted.returncode != 0
    assert "store.users -> coordinator.work" in linted.stdout
