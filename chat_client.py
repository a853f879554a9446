"""The chat client: from the command line to a conversation.

What lives here: the seed's dialogue, starting and ending the threads, the relay as a child
process, the subcommands.  What it does not know: the protocol (`chat_session`), the chain
(`blockchain`), the screen (`chat_terminal`).

    python chat_client.py                      asks for a relay, then chats
    python chat_client.py --host               starts a relay here, then chats
    python chat_client.py history | verify | wallet

Threads (docs/ARCHITECTURE.md): this one owns the prompt; `receive_messages` the socket;
`Engine.run` session, chain and wallet; the terminal's own thread the screen.
"""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType as StackFrame
from typing import NoReturn

from blockchain import StoreError
from chat_engine import Engine, now
from chat_history import history, recall
from chat_link import CannotConnect, Inbox, Link, connect
from chat_messages import MAX_NICK_CHARACTERS, check_nick
from chat_profile import Profile, ProfileError, verify_profile
from chat_session import Session
from chat_settings import Settings, UsageError, parse_port, read_settings
from chat_terminal import BadInput, Kind, Line, Terminal, open_terminal
from chat_wire import DEFAULT_PORT
from crypto_utils import EncryptionManager, RoomSecret

__all__ = ["main", "mine_and_send_message", "receive_messages", "start_client"]

_TRIES = 3  # how often a person at a terminal is asked again
_RELAY_STOP_S = 5.0
# How long a client that was told to end by a signal still waits for receipts.
_SIGNAL_LINGER_S = 2.0


class _Exit(Exception):
    """The run ends here; the text, if any, is one line for the person."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


class _Ended(BaseException):
    """SIGTERM or SIGHUP: raised in the prompt's thread so that it stops waiting for a line."""


def mine_and_send_message(engine: Engine, message: str, *, wait: bool = False) -> str:
    """Says one typed line: it is sealed, mined into the chain, and then sent.

    The seed's `mine_and_send_message(client_socket, message, recipient_public_key)` did this
    itself; here the engine owns chain and keys, and the room's members are the recipients.

    Returns:
        "" or the text that was refused (see `Engine.submit`).
    """
    return engine.submit(message, wait=wait)


def receive_messages(link: Link) -> None:
    """The network thread: reads frames until the connection ends, and writes what is to be sent.

    The seed's `receive_messages(client_socket)`; the link is the socket with its buffers.
    """
    link.run()


def start_client(settings: Settings) -> int:
    """Runs the chat from its first question to its end, and returns the exit code."""
    terminal = open_terminal(plain=settings.plain, quiet=settings.quiet)
    relay: _Relay | None = None
    try:
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
            if number is not None:
                signal.signal(number, _end)
        with (
            ThreadPoolExecutor(1) as maker,
            Profile.open(settings.home, settings.profile) as profile,
        ):
            sek = maker.submit(EncryptionManager)  # made while the person answers
            _say_profile(terminal, profile, settings)
            nick = _nick(settings, profile)
            if settings.host is not None:
                relay = _Relay(settings, terminal)
                address = ("127.0.0.1", relay.port)
                sock = connect(*address)
            else:
                sock = _ask_and_connect(settings, terminal)
            inbox = Inbox()
            return _chat(settings, terminal, profile, nick, sek, Link(sock, inbox), inbox)
    except _Exit as exc:
        if str(exc):
            terminal.show(Line(Kind.ERROR, str(exc)))
        return exc.code
    except (ProfileError, StoreError) as exc:
        terminal.show(Line(Kind.ERROR, str(exc)))
        return 6
    except CannotConnect as exc:
        terminal.show(Line(Kind.ERROR, str(exc)))
        return 3
    except _Ended:
        return 0
    finally:
        if relay is not None:
            relay.stop()
        terminal.close()


def _end(_number: int, _frame: StackFrame | None) -> NoReturn:
    raise _Ended


def _chat(
    settings: Settings,
    terminal: Terminal,
    profile: Profile,
    nick: str,
    sek: Future[EncryptionManager],
    link: Link,
    inbox: Inbox,
) -> int:
    room = RoomSecret.open_room(settings.room)
    session = Session(
        profile.keystore,
        room,
        nick,
        sek.result(),
        now(),
        memory=recall(profile.chain, room),
        password=_password(settings),
        linger_s=settings.linger_s,
    )
    engine = Engine(profile, session, terminal, inbox, profile.balance())
    engine.attach(link)
    threads = [
        threading.Thread(target=receive_messages, args=(link,), name="network"),
        threading.Thread(target=engine.run, name="engine"),
    ]
    for thread in threads:
        thread.start()
    unreadable = 0
    try:
        engine.ready.wait()
        unreadable = _prompt(engine, terminal)
    except (_Ended, KeyboardInterrupt):
        engine.leave(_SIGNAL_LINGER_S)
    for thread in threads:
        _join(thread, engine)
    lost = engine.refused + unreadable
    if lost and not terminal.interactive and engine.exit_code == 0:
        many = "s were" if lost > 1 else " was"
        raise _Exit(3, f"{lost} line{many} not sent, see above")
    return engine.exit_code


def _join(thread: threading.Thread, engine: Engine) -> None:
    """Waits for the thread; a signal meanwhile means that the person does not want to wait."""
    while thread.is_alive():
        try:
            thread.join()
        except (_Ended, KeyboardInterrupt):
            engine.leave(0.0)


def _prompt(engine: Engine, terminal: Terminal) -> int:
    """Reads lines until the person leaves; returns how many could not be read at all."""
    draft, unreadable = "", 0
    while not engine.leaving.is_set():
        try:
            line = terminal.read_line("> ", draft)
        except BadInput as exc:
            terminal.show(Line(Kind.ERROR, str(exc)))
            draft, unreadable = exc.text, unreadable + 1
            continue
        # The end of input leaves, after all that was typed before.
        draft = mine_and_send_message(
            engine, "/quit" if line is None else line, wait=terminal.interactive
        )
        if line is None:
            break
    return unreadable


# --------------------------------------------------------------------------- before the chat


def _say_profile(terminal: Terminal, profile: Profile, settings: Settings) -> None:
    if profile.finding is not None:
        terminal.show(Line(Kind.ALERT, f"HISTORY TAMPERED: {profile.finding}"))
    if profile.is_new:
        where = f"new identity, kept in {profile.path} without a passphrase"
        terminal.show(Line(Kind.NOTICE, where))
    if settings.profile is None and profile.number > 1:
        text = f"another client uses your profile: this one is {profile.name}"
        terminal.show(Line(Kind.NOTICE, text))


def _nick(settings: Settings, profile: Profile) -> str:
    """--name, else what the profile remembers, else the login name as far as the grammar goes."""
    nick = settings.name or profile.nick
    if nick is None:
        suffix = f"-{profile.number}" if profile.number > 1 else ""
        nick = _login_nick(suffix)
    if nick != profile.nick:
        profile.remember_nick(nick)
    return nick


def _login_nick(suffix: str) -> str:
    try:
        login = unicodedata.normalize("NFC", getpass.getuser())
    except (OSError, KeyError, ImportError):  # no such user in this container
        login = ""
    kept = ""
    for char in login:
        with suppress(ValueError):
            check_nick("x" + char)
            kept += char
    kept = kept.lstrip("/-")[: MAX_NICK_CHARACTERS - len(suffix)]
    try:
        return check_nick((kept or "someone") + suffix)
    except ValueError:
        return "someone" + suffix


def _password(settings: Settings) -> bytes:
    """The first line of the password file, UTF-8 in NFC; empty without one.  Raises _Exit."""
    path = settings.password_file
    if path is None:
        return b""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise _Exit(2, f"{path} can be read by others: chmod 600 {path}")
        with path.open(encoding="utf-8") as file:
            line = file.readline(4096).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise _Exit(2, f"{path} cannot be read: {exc}") from exc
    if not line:
        raise _Exit(2, f"{path} has an empty first line: the password stands there")
    return unicodedata.normalize("NFC", line).encode()


def _ask_and_connect(settings: Settings, terminal: Terminal) -> socket.socket:
    """The relay's address, asked for where the settings have none, and a connection to it.

    A person at a terminal is asked again, three times in all; a pipe is not.
    """
    asks = settings.server is None
    tries = _TRIES if asks and terminal.interactive else 1
    for left in reversed(range(tries)):
        try:
            server = settings.server or _ask_address(terminal)
            port = settings.port or (_ask_port(terminal) if asks else DEFAULT_PORT)
            return connect(server, port)
        except CannotConnect as exc:
            problem = _Exit(3, str(exc))
        except ValueError as exc:
            problem = _Exit(2, str(exc))
        if left:
            terminal.show(Line(Kind.ERROR, str(problem)))
    raise problem


def _ask_address(terminal: Terminal) -> str:
    address = _ask(terminal, "Enter server IP: ")
    if not address:
        raise ValueError("an address looks like 192.168.1.5; the relay prints its own")
    return address


def _ask_port(terminal: Terminal) -> int:
    return parse_port(_ask(terminal, "Enter port: ") or str(DEFAULT_PORT))


def _ask(terminal: Terminal, question: str) -> str:
    """Raises BadInput (a ValueError), and _Exit at the end of input."""
    answer = terminal.read_line(question)
    if answer is None:
        raise _Exit(
            2, f"the input ended at the question {question.strip()!r}: see --server, --port"
        )
    return answer.strip()


class _Relay:
    """The relay that --host starts: a child that ends when its stdin, which we hold, closes."""

    def __init__(self, settings: Settings, terminal: Terminal) -> None:
        """Starts it and waits until it listens.  Raises _Exit."""
        command = [sys.executable, str(Path(__file__).with_name("chat_server.py"))]
        command += ["--port", str(settings.host), "--exit-with-stdin"]
        if settings.password_file is not None:
            command += ["--password-file", str(settings.password_file)]
        self._log_path = settings.home / "relay.log"
        self._terminal = terminal
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own file, no shell
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # a Ctrl-C at our prompt is not for the relay
            )
        self.port = self._await_port()
        self._pump = threading.Thread(target=self._show_rest, name="relay", daemon=True)
        self._pump.start()

    def _await_port(self) -> int:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("Listening on "):
                return int(line.rsplit(":", 1)[1])
        self._end()
        said = self._log_path.read_text("utf-8", "replace").strip().splitlines()
        reason = said[-1].removeprefix("chainroom-server: ") if said else "it said nothing"
        raise _Exit(self._process.returncode or 3, f"the relay did not start: {reason}")

    def _show_rest(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._terminal.show(Line(Kind.NOTICE, line.rstrip("\n")))

    def stop(self) -> None:
        """Closes the pipe; the relay tells its members and ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._pump.join()
        self._end()

    def _end(self) -> None:
        with self._process:  # closes its pipes
            try:
                self._process.wait(_RELAY_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


# --------------------------------------------------------------------------- subcommands


def _history(settings: Settings, terminal: Terminal) -> int:
    with Profile.open(settings.home, settings.profile, create=False) as profile:
        for line in history(profile.chain, settings.count, settings.find):
            terminal.show(line)
    return 0


def _wallet(settings: Settings, terminal: Terminal) -> int:
    with Profile.open(settings.home, settings.profile, create=False) as profile:
        balance, index = profile.balance(), profile.chain.get_latest_block().index
    coins = f"{balance} coin{'' if balance == 1 else 's'}"
    terminal.show(Line(Kind.DIALOGUE, f"{coins}, from the chain up to block {index}"))
    return 0


def _verify(settings: Settings, terminal: Terminal) -> int:
    worst = 0
    for found in verify_profile(settings.home, settings.profile):
        match found.exit_code:
            case 0:
                terminal.show(Line(Kind.DIALOGUE, found.text))
            case 4:
                terminal.show(Line(Kind.ALERT, f"HISTORY TAMPERED: {found.text}"))
            case _:
                terminal.show(Line(Kind.ERROR, found.text))
        # A finding outweighs what could not be checked.
        worst = 4 if 4 in (worst, found.exit_code) else max(worst, found.exit_code)
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """The `chainroom` command: returns the exit code (docs in `--help`)."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv, os.environ)
    except UsageError as exc:
        print(f"chainroom: {exc}", file=sys.stderr)
        return 2
    if settings.command == "chat":
        return start_client(settings)
    commands: dict[str, Callable[[Settings, Terminal], int]] = {
        "history": _history,
        "verify": _verify,
        "wallet": _wallet,
    }
    terminal = open_terminal(plain=settings.plain)
    try:
        return commands[settings.command](settings, terminal)
    except (ProfileError, StoreError) as exc:
        terminal.show(Line(Kind.ERROR, str(exc)))
        return 6
    finally:
        terminal.close()


if __name__ == "__main__":
    sys.exit(main())
