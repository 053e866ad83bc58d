"""What is written for people is what the program does: settings, commands, codes and states."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from chorus.cli import app
from coordinator import rpc
from coordinator.idle import Idle
from coordinator.lifecycle import UNIT_MOVES, LeaseEnding, Receipt
from coordinator.settings import Settings
from coordinator.throttle import Held
from protos import work_pb2
from protos.tier import Tier
from volunteer_client.conversation import _IDLE_WORDS

ROOT = Path(__file__).parents[2]
ROOT_COMMAND = typer.main.get_command(app)


def _read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


# --- settings ---


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str):
    [row] = [line for line in _read("docs/settings.md").splitlines() if f"`CHORUS_{name.upper()}`" in line]
    default = Settings.model_fields[name].default
    if default:
        assert f"`{default}`" in row
    flags = _options(_commands()["chorus up"])
    flag = f"--{name.replace('_', '-')}"
    assert (f"`{flag}`" in row) is (flag in flags)


def test_no_setting_is_documented_that_does_not_exist():
    documented = set(re.findall(r"CHORUS_([A-Z_]+)", _read("docs/settings.md") + _read("README.md")))
    known = {name.upper() for name in Settings.model_fields}
    assert documented <= known | {"HOME"}


# --- commands ---


def _walk(command: Any, path: tuple[str, ...] = ("chorus",)) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(path), command
    for name, below in inner.items():
        yield from _walk(below, (*path, name))


def _commands() -> dict[str, Any]:
    return dict(_walk(ROOT_COMMAND))


def _options(command: Any) -> set[str]:
    named = [option for parameter in command.params for option in parameter.opts + parameter.secondary_opts]
    return {option for option in named if option.startswith("--")}


def _sections() -> dict[str, str]:
    parts = re.split(r"^## (chorus .+)$", _read("docs/commands.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_a_section_and_every_section_a_command():
    assert set(_sections()) == set(_commands())


@pytest.mark.parametrize("name", _commands())
def test_a_commands_section_names_its_options_and_no_others(name: str):
    said = set(re.findall(r"--[a-z][a-z-]*", _sections()[name]))
    assert said == _options(_commands()[name])


def _written_commands(text: str) -> Iterator[list[str]]:
    """The words after every `chorus` in code: in fences line by line, and in spans."""
    fences = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in [line for fence in fences for line in fence.splitlines()] + spans:
        found = re.match(r"(?:\S*/)?chorus (.+)", line.strip())
        if found:
            yield shlex.split(found[1], comments=True)


def _fault(words: list[str]) -> str | None:
    """What is wrong with a written command, by what typer knows."""
    command, rest = ROOT_COMMAND, list(words)
    while getattr(command, "commands", None) and rest and rest[0] not in {"…", "--help"}:
        word = rest.pop(0)
        if word not in command.commands:
            return f"there is no '{word}' in {' '.join(words)}"
        command = command.commands[word]
    options = {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--help"}
    unknown = options - _options(command)
    return f"{' '.join(words)} has no {', '.join(sorted(unknown))}" if unknown else None


@pytest.mark.parametrize(
    "page", ["README.md", "docs/commands.md", "docs/settings.md", "docs/credit.md", "protos/README.md"]
)
def test_every_command_that_a_page_shows_exists(page: str):
    written = list(_written_commands(_read(page)))
    assert written or page == "protos/README.md"
    assert [fault for fault in map(_fault, written) if fault] == []


def test_a_command_that_does_not_exist_would_be_seen():
    page = "Try `chorus admin fly`.\n```\n.venv/bin/chorus up --dta x  # typing error\n```\n"
    assert sorted(filter(None, map(_fault, _written_commands(page)))) == [
        "there is no 'fly' in admin fly",
        "up --dta x has no --dta",
    ]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/commands.md", "docs/settings.md", "docs/credit.md", "protos/README.md"]
)
def test_every_page_that_is_linked_exists(page: str):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", _read(page))
    assert [link for link in links if not (folder / link).exists()] == []


# --- the protocol ---


@pytest.mark.parametrize(
    "word", [*work_pb2.ErrorCode.keys(), *work_pb2.ResultStatus.keys(), *(idle.code for idle in Idle), *Held]
)
def test_every_code_of_the_protocol_has_a_row(word: str):
    assert re.search(rf"^\| `{word}` \|", _read("protos/README.md"), re.MULTILINE)


def test_the_client_has_words_for_every_idle_reason():
    assert set(_IDLE_WORDS) == {*(idle.code for idle in Idle), *Held}


@pytest.mark.parametrize(
    "receipt",
    [Receipt.UNKNOWN_UNIT, Receipt.NOT_LEASED, Receipt.ALREADY_ANSWERED, Receipt.INVALID],
)
def test_every_reason_of_a_refusal_is_explained(receipt: Receipt):
    assert f"`{receipt.value}`" in _read("protos/README.md")


def test_the_error_table_gives_the_status_that_the_server_sends():
    page = _read("protos/README.md")
    for code, status in rpc._STATUS.items():
        assert f"| `{work_pb2.ErrorCode.Name(code)}` | {status.name} |" in page


def test_the_limits_on_the_page_are_the_servers():
    page = _read("protos/README.md")
    assert f"over {rpc.MAX_RESULTS} results or {rpc.MAX_REFS:,} units" in page
    assert f"{rpc.MAX_WAIT_S:g} seconds at most" in page


def test_every_rpc_is_on_the_page():
    service = work_pb2.DESCRIPTOR.services_by_name["Coordinator"]
    missing = [
        method.name for method in service.methods if f"`{method.name}" not in _read("protos/README.md")
    ]
    assert missing == []


# --- the pictures of the lifecycle ---


def _picture(heading: str) -> set[tuple[str, str, str]]:
    """(from, to, label) of every labelled arrow of the diagram under a heading."""
    section = _read("docs/lifecycle.md").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    diagram = re.search(r"```mermaid\nstateDiagram-v2\n(.*?)```", section, re.DOTALL)
    assert diagram, f"no diagram under {heading}"
    return set(re.findall(r"^ +(\w+) --> (\w+): (\w+)$", diagram[1], re.MULTILINE))


def test_the_picture_of_units_shows_every_move_and_no_other():
    moves = {
        (state.value, after.value, move.value)
        for state, moves in UNIT_MOVES.items()
        for move, after in moves.items()
    }
    assert _picture("Units") == moves


def test_the_picture_of_leases_shows_every_ending_and_where_its_replica_goes():
    endings = {("leased", "waiting" if e.puts_back else "done", e.value) for e in LeaseEnding}
    assert _picture("Leases") == endings


def test_the_tiers_of_the_readme_are_the_tiers():
    shown = set(re.findall(r"`(cpu|\d+g)`", _read("README.md") + _read("docs/commands.md")))
    assert shown <= {tier.label for tier in Tier}
