"""What all tests share: how examples are made, and the rooms and profiles that many begin with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import chains
import pytest
import rsa_pool
from hypothesis import settings
from processes import RelayHere
from profiles import be_quick, nobody, say, talk
from simulated_room import DECIDED_S, SimulatedMember, SimulatedRoom, tag

import crypto_utils
from blockchain import Blockchain
from chat_profile import Profile

# Shared runners stall now and then: a slow example is no failure.
settings.register_profile("chainroom", deadline=None, max_examples=25)
settings.load_profile("chainroom")


def pytest_configure(config: pytest.Config) -> None:
    """The first process of a run makes the folder of the pool; its workers inherit the name."""
    if rsa_pool.FOLDER not in os.environ:
        os.environ[rsa_pool.FOLDER] = folder = tempfile.mkdtemp(prefix="chainroom-keys-")
        config.add_cleanup(lambda: shutil.rmtree(folder))


# --------------------------------------------------------------------------- a room in a list


@pytest.fixture
def room() -> SimulatedRoom:
    return SimulatedRoom()


@pytest.fixture
def alice(room: SimulatedRoom) -> SimulatedMember:
    return room.join("alice")


@pytest.fixture
def bob(room: SimulatedRoom, alice: SimulatedMember) -> SimulatedMember:
    return room.join("bob")


@pytest.fixture
def carol(room: SimulatedRoom, bob: SimulatedMember) -> SimulatedMember:
    return room.join("carol")


@pytest.fixture
def knows_bob(room: SimulatedRoom) -> SimulatedMember:
    """alice, who met bob, and bob is gone."""
    alice, bob = room.join("alice"), room.join("bob")
    room.passes(5)
    bob.types("/quit")
    room.passes(5)
    assert alice.said(f"bob#{tag('bob')} left")
    return alice


@pytest.fixture
def false_bob(room: SimulatedRoom, knows_bob: SimulatedMember) -> SimulatedMember:
    """Somebody with bob's nick and another key, seen through."""
    mallory = room.join("mallory", nick="bob")
    room.passes(DECIDED_S)
    return mallory


@pytest.fixture
def relay() -> Iterator[RelayHere]:
    """A real one, on threads of this process."""
    with RelayHere() as here:
        yield here


# --------------------------------------------------------------------------- a chain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a chain's file."""
    return tmp_path / "chain.db"


@pytest.fixture
def chain(path: Path) -> Iterator[Blockchain]:
    """A genesis, and a record of each of three types."""
    with closing(Blockchain.create(path, chains.keystore(), chains.NOW)) as made:
        drafts = [chains.draft(1), chains.draft(2, chains.RECEIVED), chains.draft(3, chains.EVENT)]
        made.append(drafts, chains.NOW)
        yield made


# --------------------------------------------------------------------------- a profile's folder


@pytest.fixture
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """New profiles get keys that are there already."""
    be_quick(monkeypatch)


@pytest.fixture(scope="session")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of somebody who talked, to be copied."""
    return talk(tmp_path_factory.mktemp("talked"))


@pytest.fixture
def home(talked: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(talked, tmp_path / "home")


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id in no time."""
    monkeypatch.setattr(crypto_utils, "_LEAST_COST", (64, 1, 1))


@pytest.fixture
def sealed(home: Path, cheap: None) -> Path:
    """The home behind the passphrase `open sesame`."""
    with Profile.open(home, passphrase=nobody) as profile:
        profile.set_passphrase(b"open sesame")
        say(profile, 100)
    return home
