"""The house: who may import whom (docs/ARCHITECTURE.md, DESIGN.md section 1)."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module may import those of lower floors; beside that, the neighbours that are named here.
FLOORS = {
    "chat_wire": 0,
    "chat_text": 0,
    "chat_screen": 0,
    "chat_editors": 0,
    "chat_terminal": 0,
    "chat_addresses": 0,
    "chat_qr": 0,
    "crypto_utils": 1,
    "chat_blocks": 2,
    "chat_rows": 2,
    "chat_verdicts": 2,
    "blockchain": 2,
    "chat_messages": 2,
    "chat_commands": 2,
    "chat_invite": 2,
    "chat_pins": 2,
    "chat_roster": 2,
    "chat_feeds": 2,
    "chat_effects": 2,
    "chat_memory": 2,
    "chat_witness": 2,
    "chat_report": 2,
    "chat_checkpoint": 2,
    "chat_folder": 2,
    "chat_rooms": 2,
    "chat_typed": 2,
    "chat_sync_bodies": 2,
    "chat_archive": 2,
    "chat_acks": 3,
    "chat_heard": 3,
    "chat_receipts": 3,
    "chat_sync": 3,
    "chat_trust": 3,
    "chat_people": 3,
    "chat_session": 3,
    "chat_history": 3,
    "chat_json": 3,
    "chat_link": 3,
    "chat_discovery": 3,
    "chat_doctor": 3,
    "chat_retry": 3,
    "chat_settings": 3,
    "chat_profile": 3,
    "chat_verification": 3,
    "chat_passphrase": 3,
    "chat_audit": 3,
    "chat_proof": 3,
    "chat_export": 3,
    "chat_fanout": 4,
    "chat_members": 4,
    "chat_daemon": 4,
    "chat_server": 4,
    "chat_answers": 4,
    "chat_offline": 4,
    "chat_hosting": 4,
    "chat_engine": 4,
    "chat_client": 5,
}
NEIGHBOURS = {
    "chat_screen": {"chat_text"},
    "chat_editors": {"chat_screen", "chat_text"},
    "chat_terminal": {"chat_editors", "chat_screen", "chat_text"},
    "chat_rows": {"chat_blocks"},
    "chat_verdicts": {"chat_blocks", "chat_rows"},
    "blockchain": {"chat_blocks", "chat_rows", "chat_verdicts"},
    "chat_messages": {"chat_blocks"},  # docs/adr/0001
    "chat_roster": {"chat_messages", "chat_pins"},
    "chat_report": {"chat_messages"},
    "chat_feeds": {"chat_messages", "chat_blocks"},
    "chat_effects": {"chat_blocks", "chat_messages", "chat_sync_bodies"},
    "chat_sync_bodies": {"chat_messages"},
    "chat_archive": {"blockchain", "chat_blocks", "chat_messages", "chat_sync_bodies"},
    "chat_witness": {"chat_blocks", "chat_messages"},
    "chat_people": {"chat_trust"},
    "chat_session": {
        "chat_acks",
        "chat_trust",
        "chat_people",
        "chat_heard",
        "chat_receipts",
        "chat_sync",
    },
    "chat_receipts": {"chat_acks"},
    "chat_sync": {"chat_heard"},
    "chat_rooms": {"chat_blocks", "chat_invite", "chat_qr"},
    "chat_typed": {"chat_blocks"},
    "chat_memory": {"chat_messages", "chat_feeds", "chat_roster", "chat_pins"},
    "chat_proof": {"chat_audit"},
    "chat_checkpoint": {"blockchain"},
    "chat_folder": {"blockchain"},
    "chat_profile": {"chat_history"},
    "chat_verification": {"chat_audit"},
    "chat_offline": {"chat_answers"},
    "chat_engine": {"chat_answers"},
    "chat_members": {"chat_fanout"},
    "chat_server": {"chat_members", "chat_fanout", "chat_daemon"},
}
RELAY = {"chat_server", "chat_members", "chat_fanout", "chat_daemon"}
MODULES = sorted(FLOORS)


def imports_of(module: str) -> set[str]:
    """Every module named in any import statement of the file, lazy ones included."""
    tree = ast.parse((ROOT / f"{module}.py").read_text("utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "flat modules have no relative imports"
            found.add((node.module or "").split(".")[0])
    return found


def test_every_module_of_the_house_is_in_the_table() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_upwards(module: str) -> None:
    for other in imports_of(module) & set(FLOORS):
        allowed = FLOORS[other] < FLOORS[module] or other in NEIGHBOURS.get(module, set())
        assert allowed, f"{module} (floor {FLOORS[module]}) imports {other} ({FLOORS[other]})"


@pytest.mark.parametrize("module", MODULES)
def test_only_crypto_utils_imports_cryptography(module: str) -> None:
    assert ("cryptography" in imports_of(module)) == (module == "crypto_utils")


@pytest.mark.parametrize("module", sorted(RELAY))
def test_the_relay_cannot_decrypt(module: str) -> None:
    ours = imports_of(module) & set(FLOORS)
    assert ours <= RELAY | {"chat_wire", "chat_addresses", "chat_discovery"}


def test_the_client_starts_the_relay_as_a_process_and_imports_nothing_of_it() -> None:
    for module in MODULES:
        if module not in RELAY:
            assert not imports_of(module) & RELAY, module


@pytest.mark.parametrize(
    "module", ["chat_session", "chat_feeds", "chat_roster", "chat_messages", "chat_commands"]
)
def test_the_rules_know_no_socket_thread_file_or_clock(module: str) -> None:
    forbidden = {"socket", "threading", "sys", "time", "os", "selectors", "sqlite3", "pathlib"}
    forbidden |= {"blockchain", "chat_rows"}
    assert not imports_of(module) & forbidden


def test_bytes_know_no_sockets() -> None:
    assert not imports_of("chat_wire") & {"socket", "selectors", "threading", "time"}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_listed_and_documented(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    assert loaded.__all__
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if callable(value) and getattr(value, "__module__", "") == module:
            assert value.__doc__, f"{module}.{name} has no docstring"


def test_seeds_public_names_are_where_they_were() -> None:
    names = {
        "blockchain": ["Block", "Blockchain"],
        "crypto_utils": ["EncryptionManager", "CryptoWallet"],
        "chat_client": ["mine_and_send_message", "receive_messages", "start_client"],
        "chat_server": ["handle_client", "broadcast", "start_server"],
    }
    for module, expected in names.items():
        assert set(expected) <= set(importlib.import_module(module).__all__)


def test_pyproject_packs_every_module_and_needs_cryptography_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(project["tool"]["setuptools"]["py-modules"]) == set(FLOORS)
    assert {d.split(">")[0] for d in project["project"]["dependencies"]} == {"cryptography"}
