"""Every notice about names and keys, as a real process says it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import Client, Guest, RelayHere, Terminal, run

NUMBER = r"^--     (\d{5} \d{5} \d{5} \d{5})$"


def tag_of(client: Client | Guest) -> str:
    return client.err.wait_for(r"^-- you are \S+#\w{4}").rsplit("#", 1)[1]


@contextmanager
def alice_sees_bob(relay: RelayHere, path: Path) -> Iterator[tuple[Client, Guest]]:
    """alice, whose screen most tests are about, and bob."""
    with (
        Client(relay.port, path / "a", "alice") as alice,
        Guest(relay.port, path / "b", "bob") as bob,
    ):
        alice.sees("bob")
        yield alice, bob


def met(relay: RelayHere, path: Path) -> str:
    """alice and bob meet and part; bob's tag."""
    with (
        Guest(relay.port, path / "a", "alice") as one,
        Guest(relay.port, path / "b", "bob") as other,
    ):
        one.sees("bob")
        tag = tag_of(other)
        assert other.leaves() == 0
        one.err.wait_for(r"^-- bob#\w{4} left$")
        assert one.leaves() == 0
    return tag


def test_new_person_is_said_when_it_joins_and_when_it_is_there(
    relay: RelayHere, tmp_path: Path
) -> None:
    with Client(relay.port, tmp_path / "a", "alice") as alice:
        alice.joined()
        with Guest(relay.port, tmp_path / "b", "bob") as bob:
            name = f"bob#{tag_of(bob)}"
            alice.err.wait_for(rf"^-- {name} joined \(new to you: /verify {name}\)$")
            bob.err.wait_for(r"^-- new to you: alice#\w{4}; /verify NAME compares keys$")


def test_changed_key_is_an_alarm_is_not_read_and_reads_nothing_until_accepted(
    relay: RelayHere, tmp_path: Path
) -> None:
    old = met(relay, tmp_path)
    with (
        Client(relay.port, tmp_path / "a", "alice") as alice,
        Guest(relay.port, tmp_path / "other", "bob") as bob,
    ):
        new = tag_of(bob)
        bob.sees("alice")
        bob.types("read me later")
        bob.out.wait_for("Mined 1 coin")
        alice.joined().types("not for strangers")
        alice.err.wait_for(
            rf"^!! KEY CHANGED: bob#{new} has another key than bob#{old}, whom you know\."
        )
        bob.err.wait_for(r"says things that are not for you to read$")
        assert f"bob#{new}:" not in alice.out.text
        alice.types(f"/msg bob#{new} psst")
        alice.err.wait_for(rf"the key of bob#{new} is not accepted: /accept bob#{new} first$")
        alice.types("/accept bob")
        alice.err.wait_for(rf"^-- bob#{new} is accepted: reads what you say from here on$")
        alice.shows(f"bob#{new}: read me later")
        alice.types("welcome back")
        bob.shows(r"alice#\w{4}: welcome back")
        assert "strangers" not in bob.out.text
        assert bob.leaves() == 0
    said = run(tmp_path / "a", "history").stdout
    assert "read me later" in said


def test_second_bob_is_another_and_msg_asks_which(relay: RelayHere, tmp_path: Path) -> None:
    with alice_sees_bob(relay, tmp_path) as (alice, bob):
        old = tag_of(bob)
        alice.asks("/who", rf"^-- bob#{old}$")  # it is confirmed that he is here
        with Guest(relay.port, tmp_path / "c", "bob") as other:
            new = tag_of(other)
            alice.err.wait_for(rf"^-- another bob: bob#{new} is not bob#{old}, whom you know$")
            alice.types("/msg bob hello")
            both = ", ".join(sorted((f"bob#{old}", f"bob#{new}")))
            alice.err.wait_for(rf"^chainroom: which bob\? {both}$")
            alice.types(f"/msg bob#{new} for you")
            other.shows(r"alice#\w{4} \(private\): for you")


def test_second_bob_is_an_alarm_if_the_first_is_verified(relay: RelayHere, tmp_path: Path) -> None:
    with alice_sees_bob(relay, tmp_path) as (alice, bob):
        old = tag_of(bob)
        alice.types("/verify bob")
        alice.types("/verify bob yes")
        alice.asks("/who", r"^-- bob \(verified\)$")
        with Guest(relay.port, tmp_path / "c", "bob") as other:
            new = tag_of(other)
            alice.err.wait_for(rf"^!! another bob: bob#{new} is not bob#{old}, whom you verified$")


@pytest.mark.parametrize(
    ("nick", "like"),
    [("b0b", r"bob#\w{4}"), ("аlice", "your own name")],
)
def test_look_alike_is_an_alarm(relay: RelayHere, tmp_path: Path, nick: str, like: str) -> None:
    met(relay, tmp_path)
    with (
        Client(relay.port, tmp_path / "a", "alice") as alice,
        Guest(relay.port, tmp_path / "m", nick),
    ):
        alice.err.wait_for(rf"^!! {nick}#\w{{4}} looks like {like}, and is somebody else$")


def test_same_key_with_a_new_name_is_said(relay: RelayHere, tmp_path: Path) -> None:
    with alice_sees_bob(relay, tmp_path) as (alice, bob):
        tag = tag_of(bob)
        bob.types("/nick rob")
        alice.err.wait_for(rf"^-- bob#{tag} is now called rob#{tag}$")
        assert bob.leaves() == 0
        with Guest(relay.port, tmp_path / "b", "robin"):
            alice.err.wait_for(rf"^-- rob#{tag} is now called robin#{tag}$")


def test_taking_the_name_of_somebody_else_is_an_alarm(relay: RelayHere, tmp_path: Path) -> None:
    with (
        alice_sees_bob(relay, tmp_path) as (alice, bob),
        Guest(relay.port, tmp_path / "c", "carol") as carol,
    ):
        alice.sees("carol")
        other, known = tag_of(bob), tag_of(carol)
        bob.types("/nick carol")
        alarm = f"!! another carol: carol#{other} is not carol#{known}, whom you know"
        alice.err.wait_for(f"^{alarm}$")


def test_both_screens_show_one_number_and_pasting_it_verifies(
    relay: RelayHere, tmp_path: Path
) -> None:
    with alice_sees_bob(relay, tmp_path) as (alice, bob):
        bob.sees("alice")
        alice.types("/verify bob")
        bob.types("/verify alice")
        shown = []
        for client in (alice, bob):
            client.err.wait_for("the same on both screens")
            shown.append(re.findall(NUMBER, client.err.text, re.MULTILINE))
        assert shown[0] == shown[1]
        assert len(shown[0]) == 3
        right = " ".join(shown[0])
        wrong = right[:-1] + str((int(right[-1]) + 1) % 10)
        alice.types(f"/verify bob {wrong}")
        alice.err.wait_for(r"^!! NO MATCH: that is not the number of you and bob#\w{4}\.")
        bob.types("not verified yet")
        alice.shows(r"bob#\w{4}: not verified yet")
        alice.types(f"/verify bob {right.replace(' ', '-')}")
        alice.err.wait_for(r"^-- bob is verified: ")
        bob.types("verified now")
        alice.shows(r"bob: verified now")
        alice.types("/verify bob no")
        alice.err.wait_for(r"^-- bob#\w{4} is verified no longer$")


def test_changed_key_of_a_verified_person_on_a_terminal(relay: RelayHere, tmp_path: Path) -> None:
    flags = ("--server", "127.0.0.1", "--port", str(relay.port), "--name", "alice")
    with Terminal(tmp_path / "a", *flags, columns=200) as alice:
        alice.shows("^Connected!")
        with Guest(relay.port, tmp_path / "b", "bob") as bob:
            alice.shows(r"^-- bob#\w{4} joined")
            old = tag_of(bob)
            alice.types("/verify bob\r")
            alice.types("/verify bob yes\r")
            alice.shows("^-- bob is verified")
            assert bob.leaves() == 0
            alice.shows("^-- bob left")
        with Guest(relay.port, tmp_path / "c", "bob") as other:
            new = tag_of(other)
            alice.shows(rf"^!! KEY CHANGED: bob#{new} has .* bob#{old}, whom you verified\.")
            alice.shows("1 key not accepted")  # in the status row
            alice.types("/accept bob\r")
            alice.shows(rf"^-- bob#{new} is accepted")
            other.types("thank you")
            alice.shows(rf"bob#{new}: thank you")
        alice.types("exit\r")
        assert alice.exit_code() == 0


def test_ignored_person_is_said_and_taken_back(relay: RelayHere, tmp_path: Path) -> None:
    with alice_sees_bob(relay, tmp_path) as (alice, bob):
        bob.sees("alice")
        alice.types("/ignore bob")
        alice.err.wait_for(r"^-- you ignore bob#\w{4}: nothing of bob#\w{4} is shown")
        bob.types("can you hear me")
        bob.asks("/status", "delivered to 1 of 1")
        alice.types("/ignore bob off")
        alice.err.wait_for(r"^-- you no longer ignore bob#\w{4}")
        bob.types("and now")
        alice.shows(r"bob#\w{4}: and now")
        assert "can you hear me" not in alice.out.text
