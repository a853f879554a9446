"""chat_settings: every setting from every layer, and one line for everything that cannot be."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import chat_settings
from chat_settings import (
    LAST_BLOCK,
    VERSION_TEXT,
    Settings,
    UsageError,
    parse_address,
    parse_port,
    read_settings,
)

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("error")]

ROOT = Path(__file__).resolve().parent.parent

# A setting's key, three values as they are written, what they mean, and the default.
LAYERED: list[tuple[str, str, Sequence[str], Sequence[Any], Any]] = [
    ("profile", "profile", ("a", "b", "c"), ("a", "b", "c"), None),
    ("server", "server", ("1.2.3.4", "host", "::1"), ("1.2.3.4", "host", "::1"), None),
    ("port", "port", ("1", "65535", "6000"), (1, 65535, 6000), None),
    ("name", "name", ("ann", "bö", "c_d"), ("ann", "bö", "c_d"), None),
    ("room", "room", ("one", "two", "#three"), ("one", "two", "#three"), "lobby"),
    (
        "password_file",
        "password_file",
        ("/p/1", "p2", "./p3"),
        (Path("/p/1"), Path("p2"), Path("./p3")),
        None,
    ),
    (
        "passphrase_file",
        "passphrase_file",
        ("/p/1", "p2", "./p3"),
        (Path("/p/1"), Path("p2"), Path("./p3")),
        None,
    ),
    ("time", "time_format", ("off", "hm", "iso"), ("off", "hm", "iso"), "hm"),
    ("bell", "bell", ("all", "off", "mention"), ("all", "off", "mention"), "mention"),
    ("linger", "linger_s", ("0", "2.5", "86400"), (0.0, 2.5, 86400.0), 10.0),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def read(home: Path, *argv: str, config: str | bytes = "", **environ: str) -> Settings:
    """The settings with `home` as home, whose config.toml is `config`."""
    if config:
        data = config.encode() if isinstance(config, str) else config
        (home / "config.toml").write_bytes(data)
    return read_settings(argv, {"CHAINROOM_HOME": str(home), **environ})


def refused(home: Path, *argv: str, config: str | bytes = "", **environ: str) -> str:
    """The one line of what cannot be."""
    with pytest.raises(UsageError) as problem:
        read(home, *argv, config=config, **environ)
    text = str(problem.value)
    assert text
    assert "\n" not in text
    return text


# --------------------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("key", "field", "written", "meant", "default"), LAYERED, ids=lambda x: str(x)[:12]
)
def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    home: Path, key: str, field: str, written: Sequence[str], meant: Sequence[Any], default: Any
) -> None:
    flag, variable = f"--{key.replace('_', '-')}", f"CHAINROOM_{key.upper()}"
    assert getattr(read(home), field) == default
    config = f"{key} = '{written[2]}'"
    assert getattr(read(home, config=config), field) == meant[2]
    environ = {variable: written[1]}
    assert getattr(read(home, **environ), field) == meant[1]
    assert getattr(read(home, flag, written[0], **environ), field) == meant[0]


@pytest.mark.parametrize("key", ["plain", "quiet"])
def test_a_switch_can_be_turned_on_and_off_in_every_layer(home: Path, key: str) -> None:
    variable = f"CHAINROOM_{key.upper()}"
    assert getattr(read(home), key) is False
    for on in ("true", "1", "'yes'", "'on'", "'TRUE'"):
        assert getattr(read(home, config=f"{key} = {on}"), key) is True
    for off in ("0", "false", "NO", "Off", ""):
        assert getattr(read(home, **{variable: off}), key) is False, "the file says on"
        assert getattr(read(home, f"--{key}", **{variable: off}), key) is True
    for off in ("false", "0", "'no'"):
        assert getattr(read(home, config=f"{key} = {off}"), key) is False
        assert getattr(read(home, **{variable: "yes"}), key) is True


def test_every_setting_of_the_file_is_also_a_flag_and_a_variable() -> None:
    assert set(chat_settings._LAYERED) == {key for key, *_ in LAYERED} | {
        "plain",
        "quiet",
        "json",
        "no_announce",
    }


def test_numbers_in_the_file_need_no_quotes(home: Path) -> None:
    settings = read(home, config="port = 6000\nlinger = 2.5\nplain = 1")
    assert (settings.port, settings.linger_s, settings.plain) == (6000, 2.5, True)


def test_a_value_that_is_not_asked_for_is_not_looked_at(home: Path) -> None:
    assert read(home, "--port", "1", config="port = 99999", CHAINROOM_PORT="x").port == 1


def test_home_is_the_flag_then_the_variable_then_the_platforms(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, variable = home / "flag", home / "variable"
    monkeypatch.setattr(chat_settings, "default_home", lambda: home / "default")
    environ = {"CHAINROOM_HOME": str(variable)}
    assert read_settings(["--home", str(flag)], environ).home == flag
    assert read_settings([], environ).home == variable
    assert read_settings([], {}).home == home / "default"
    assert read_settings([], {"CHAINROOM_HOME": ""}).home == home / "default"


def test_the_file_of_the_home_that_the_flag_names_is_read(home: Path) -> None:
    other = home / "other"
    other.mkdir()
    (other / "config.toml").write_text("room = 'other'")
    assert read(home, "--home", str(other), config="room = 'this'").room == "other"


def test_a_tilde_is_the_persons_home_in_every_layer(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    assert read(home, config="password_file = '~/pw'").password_file == home / "pw"
    assert read_settings([], {"CHAINROOM_HOME": "~/chat"}).home == home / "chat"


def test_a_home_that_nobody_knows_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    assert "--home" in refused(home, "--home", "~nobody-of-this-name/x")
    monkeypatch.setattr(chat_settings, "default_home", unknown)
    with pytest.raises(UsageError, match="name one with --home"):
        read_settings([], {})


def test_names_are_taken_in_nfc(home: Path) -> None:
    settings = read(home, "--name", "Bo\u0308", "--room", "cafe\u0301")
    assert (settings.name, settings.room) == ("Bö", "café")


# --------------------------------------------------------------------------- bad values

BAD = [
    ("port", "0", "1 to 65535"),
    ("port", "65536", "1 to 65535"),
    ("port", "-1", "1 to 65535"),
    ("port", "many", "1 to 65535"),
    ("port", "", "1 to 65535"),
    ("port", "5555.0", "1 to 65535"),
    ("port", "1e3", "1 to 65535"),
    ("port", " 5555", "1 to 65535"),
    ("port", "٥٥٥٥", "1 to 65535"),
    ("port", "9" * 5000, "1 to 65535"),
    ("profile", "", "1 to 64"),
    ("profile", "../x", "1 to 64"),
    ("server", "", "192.168.1.5"),
    ("server", "a b", "192.168.1.5"),
    ("server", "a\x1b[2Jb", "192.168.1.5"),
    ("name", "a b", "no spaces"),
    ("name", "", "1 to 32"),
    ("name", "x" * 33, "1 to 32"),
    ("name", "\udcff", "invisible"),
    ("room", "", "1 to 64"),
    ("room", "a b", "no spaces"),
    ("room", "x" * 65, "1 to 64"),
    ("room", "a\u202eb", "no spaces"),
    ("password_file", "", "file's name"),
    ("time", "12h", "one of off, hm, hms, iso"),
    ("bell", "loud", "one of off, mention, all"),
    ("linger", "-1", "seconds"),
    ("linger", "nan", "seconds"),
    ("linger", "inf", "seconds"),
    ("linger", "86401", "seconds"),
    ("linger", "soon", "seconds"),
]


@pytest.mark.parametrize(("key", "bad", "hint"), BAD, ids=lambda x: ascii(x)[:20])
def test_a_bad_value_is_one_line_that_names_where_it_stands_and_what_is_wrong(
    home: Path, key: str, bad: str, hint: str
) -> None:
    flag, variable = f"--{key.replace('_', '-')}", f"CHAINROOM_{key.upper()}"
    for where, text in (
        (f"{flag}: ", refused(home, f"{flag}={bad}", **{variable: "x"})),
        (f"{variable}: ", refused(home, **{variable: bad})),
    ):
        assert text.startswith(where)
        assert hint in text
    if "\udcff" not in bad:  # which TOML cannot say
        quoted = "".join(f"\\U{ord(char):08x}" for char in bad)
        text = refused(home, config=f'{key} = "{quoted}"')
        assert text.startswith(f"{key} in {home / 'config.toml'}: ")
        assert hint in text


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [("CHAINROOM_PLAIN", "maybe", "true or false"), ("CHAINROOM_QUIET", "2", "true or false")],
)
def test_a_bad_switch_is_one_line(home: Path, variable: str, value: str, hint: str) -> None:
    text = refused(home, **{variable: value})
    assert text.startswith(f"{variable}: ")
    assert hint in text


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ("prot = 5555", "prot is no setting; there are bell, json, linger, name, no_announce, "),
        ("home = '/elsewhere'", "home is no setting"),
        ("port = [1]", "port is a text, a number, true or false"),
        ("port = 2026-11-24", "port is a text, a number, true or false"),
        ("[port]", "port is a text, a number, true or false"),
        ("port = ", "cannot be read: "),
        ("port = 1\nport = 2", "cannot be read: "),
        (b"name = '\xff'", "cannot be read: "),
        pytest.param(f"port = {'9' * 5000}", "cannot be read: ", id="5000 digits"),
        pytest.param(f"port = 0x{'f' * 5000}", "cannot be read: ", id="5000 hexadecimal digits"),
        pytest.param(f"port = {'{a=' * 400}", "cannot be read: ", id="400 tables deep"),
        ('password_file = "\\u0000"', "password_file in"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(home: Path, config: str | bytes, hint: str) -> None:
    text = refused(home, config=config)
    assert str(home / "config.toml") in text
    assert hint in text


def test_a_file_that_is_none_is_one_line_that_names_it(home: Path) -> None:
    (home / "config.toml").mkdir()
    assert refused(home).startswith(f"{home / 'config.toml'} cannot be read: ")


def test_a_home_that_is_a_file_is_one_line_that_names_it(home: Path) -> None:
    (home / "file").write_text("")
    text = refused(home, "--home", str(home / "file"))
    assert str(home / "file") in text


@pytest.mark.parametrize("port", ["0", "65536", "-1", "", "x", " 1", "1 ", "١", "1_0", "+1", "0x1"])
def test_what_is_no_port_is_refused_with_one_sentence(port: str) -> None:
    with pytest.raises(ValueError, match=r"^a port is a number from 1 to 65535, not "):
        parse_port(port)


def test_ports_and_addresses_that_are_some_are_taken() -> None:
    assert [parse_port(text) for text in ("1", "5555", "65535", "00080")] == [1, 5555, 65535, 80]
    for address in ("192.168.1.5", "relay.local", "fe80::1%eth0", "bücher.example"):
        assert parse_address(f" {address}\t") == address


# --------------------------------------------------------------------------- the command line


def test_nothing_asked_for_is_a_chat_with_everything_still_to_ask(home: Path) -> None:
    settings = read(home)
    assert settings == Settings(
        command="chat",
        home=home,
        profile=None,
        server=None,
        port=None,
        host=None,
        no_announce=False,
        name=None,
        room="lobby",
        invite=None,
        new_room=False,
        password_file=None,
        passphrase_file=None,
        plain=False,
        quiet=False,
        json=False,
        time_format="hm",
        bell="mention",
        send=None,
        to="",
        linger_s=10.0,
        count=20,
        find="",
        file=None,
        format="txt",
        only=(0, LAST_BLOCK),
        peer="",
        quick=False,
        new_passphrase_file=None,
        removes_passphrase=False,
    )
    assert len(fields(Settings)) == 30


@pytest.mark.parametrize("command", ["history", "verify", "wallet", "passphrase"])
def test_flags_work_before_and_after_the_command(home: Path, command: str) -> None:
    other = str(home / "other")
    expected = read(home, "--home", other, "--profile", "p", command)
    assert (expected.command, expected.home, expected.profile) == (command, home / "other", "p")
    for argv in (
        (command, "--home", other, "--profile", "p"),
        ("--home", other, command, "--profile", "p"),
        ("--profile", "p", command, f"--home={other}"),
        ("--profile", "x", command, "--profile", "p", "--home", other),
    ):
        assert read(home, *argv) == expected


def test_history_takes_a_number_and_a_text_to_find(home: Path) -> None:
    for argv in (("50", "--find", "TEXT"), ("--find", "TEXT", "50"), ("--find=TEXT", "50")):
        settings = read(home, "history", *argv)
        assert (settings.count, settings.find) == (50, "TEXT")
    assert read(home, "history").count == 20
    for bad in ("0", "-5", "many", "1.5", "9" * 9):
        assert (
            refused(home, "history", bad)
            == f"history: a number of messages is at least 1, not {bad!r}"
        )


def test_verify_takes_a_file_or_none(home: Path) -> None:
    assert read(home, "verify").file is None
    assert read(home, "verify", "a.proof").file == Path("a.proof")
    assert read(home, "verify", "--quick").quick
    assert "a proof is checked as a whole" in refused(home, "verify", "a.proof", "--quick")
    assert refused(home, "verify", "") == "verify: a file's name is expected, not ''"


def test_a_format_is_as_asked_for_or_as_the_files_name_says_or_txt(home: Path) -> None:
    for name, expected in (
        ("a.txt", "txt"),
        ("a.jsonl", "jsonl"),
        ("a.HTML", "html"),
        ("a.proof", "proof"),
        ("a", "txt"),
        ("-", "txt"),
    ):
        assert read(home, "export", name).format == expected
        assert read(home, "export", "--format", "html", name).format == "html"
    assert "txt, jsonl, html, proof" in refused(home, "export", "--format", "pdf", "a")
    assert "FILE" in refused(home, "export")


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("12-40", (12, 40)), ("12-", (12, LAST_BLOCK)), ("12", (12, 12)), ("0-0", (0, 0))],
)
def test_an_export_may_be_of_some_blocks_or_one_persons(
    home: Path, text: str, blocks: tuple[int, int]
) -> None:
    settings = read(home, "export", "a", "--only", text, "--with", "bob")
    assert (settings.only, settings.peer) == (blocks, "bob")


@pytest.mark.parametrize("text", ["", "-", "-5", "x", "5-3", "1-2-3", "1 - 2", "٣", "9" * 16])
def test_blocks_that_are_none_are_one_line(home: Path, text: str) -> None:
    said = refused(home, "export", "a", f"--only={text}")
    assert said == f"--only: blocks are named like 12-40, 12- or 12, not {text!r}"


def test_a_new_passphrase_is_asked_for_or_in_a_file_or_none(home: Path) -> None:
    settings = read(home, "passphrase")
    assert (settings.new_passphrase_file, settings.removes_passphrase) == (None, False)
    assert read(home, "passphrase", "--new-file", "f").new_passphrase_file == Path("f")
    assert read(home, "passphrase", "--remove").removes_passphrase
    assert "use one" in refused(home, "passphrase", "--remove", "--new-file", "f")


@pytest.mark.parametrize(
    "argv",
    [
        ("--frobnicate",),
        ("--serv", "x"),
        ("history", "--fin", "x"),
        ("history", "1", "2"),
        ("verify", "--find", "x"),
        ("talk",),
        ("--port",),
        ("--plain=yes",),
    ],
    ids=" ".join,
)
def test_an_unknown_or_half_flag_is_one_line_that_points_to_the_help(
    home: Path, argv: Sequence[str]
) -> None:
    assert refused(home, *argv).endswith("(chat_client.py --help shows what there is)")


def test_host_takes_its_port_or_the_one_of_port_or_5555(home: Path) -> None:
    assert read(home, "--host").host == 5555
    assert read(home, "--host", "6000").host == 6000
    assert read(home, "--host", "0").host == 0
    assert read(home, "--host", "--port", "6000").host == 6000
    assert read(home, "--host", CHAINROOM_PORT="6001").host == 6001
    assert read(home, "--host", "6000", CHAINROOM_PORT="6001").host == 6000
    assert read(home, "--host", config="server = 'elsewhere'").host == 5555
    assert read(home).host is None


def test_host_with_what_contradicts_it_is_one_line(home: Path) -> None:
    for argv in (("--host", "--server", "x"), ("--server=x", "--host=1")):
        assert "--host" in refused(home, *argv)
        assert "--server" in refused(home, *argv)
    assert "two ports" in refused(home, "--host", "1", "--port", "2")
    assert refused(home, "--host", "65536").startswith("--host: a port is")
    assert refused(home, "--host", "history").startswith("--host: a port is")


@pytest.mark.parametrize("argv", [("--help",), ("-h",), ("history", "--help"), ("--version",)])
def test_help_and_version_print_and_exit_0(
    home: Path, argv: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        read(home, *argv)
    assert done.value.code == 0
    said = capsys.readouterr()
    assert said.out
    assert not said.err


def test_the_version_is_the_distributions(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f"{project['name']} {project['version']}" == VERSION_TEXT
    with pytest.raises(SystemExit):
        read(home, "--version")
    assert capsys.readouterr().out == VERSION_TEXT + "\n"


def test_doctor_has_a_server_and_maybe_a_port(home: Path) -> None:
    settings = read(home, "doctor", "192.168.1.5")
    assert (settings.command, settings.server, settings.port) == ("doctor", "192.168.1.5", None)
    assert read(home, "doctor", "host.example", "6000").port == 6000


def test_invite_is_a_code_or_the_last_one(home: Path) -> None:
    assert read(home, "--invite", "ABCD").invite == "ABCD"
    assert read(home, "--invite").invite == ""


@pytest.mark.parametrize(
    "argv",
    [
        ("--room", "r", "--new-room"),
        ("--room", "r", "--invite", "ABCD"),
        ("--invite", "ABCD", "--new-room"),
    ],
)
def test_two_rooms_at_once_are_refused(home: Path, argv: tuple[str, ...]) -> None:
    assert "name two rooms: use one" in refused(home, *argv)


def test_to_wants_something_to_send(home: Path) -> None:
    assert "--to names who reads what --send says" in refused(home, "--to", "bob")
    settings = read(home, "--to", "bob", "--send", "hi")
    assert (settings.send, settings.to) == ("hi", "bob")


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_nothing_is_not_sent_and_nobody_is_not_everybody(home: Path, blank: str) -> None:
    assert refused(home, "--send", blank) == "--send: there is nothing to say"
    assert "--to: a person's name" in refused(home, "--send", "hi", "--to", blank)
