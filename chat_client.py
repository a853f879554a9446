"""The chat client: from the command line to a conversation.

What lives here: the seed's dialogue, starting and ending the threads.  What it does not know: the
protocol (`chat_session`), the chain (`blockchain`), the screen (`chat_terminal`).

    python chat_client.py                      asks for a relay, then chats
    python chat_client.py --host               starts a relay here, then chats
    python chat_client.py history              or another subcommand (`chat_offline`)

Threads (docs/ARCHITECTURE.md): this one owns the prompt; `receive_messages` the socket;
`Engine.run` session, chain and wallet; the terminal's own thread the screen.
"""

from __future__ import annotations

import getpass
import os
import signal
import socket
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType as StackFrame
from types import TracebackType
from typing import Self

from blockchain import StoreError, StoreFailed
from chat_addresses import is_loopback, own_addresses
from chat_commands import Command, Say, Typed
from chat_discovery import Browser, Found
from chat_engine import Engine, now
from chat_hosting import HostedRelay, NotHosted
from chat_json import BadRequest, open_json_terminal
from chat_link import CannotConnect, Inbox, Link, connect, wants_password
from chat_memory import Memory
from chat_messages import MAX_NICK_CHARACTERS, check_nick
from chat_offline import how_to_protect, run_command, warn_if_unprotected
from chat_passphrase import PassphraseError, ask_password, asker, read_secret
from chat_profile import Profile, ProfileError
from chat_rooms import ROOMS_TABLE, NoRoom, Room, choose_room
from chat_session import Session
from chat_settings import Settings, UsageError, parse_address, parse_port, read_settings
from chat_terminal import BadInput, Kind, Line, Terminal, escape, open_terminal
from chat_typed import TYPED_TABLE, TypedLines
from chat_wire import DEFAULT_PORT
from chat_witness import HEADS_TABLE, Heads
from crypto_utils import EncryptionManager

__all__ = ["main", "mine_and_send_message", "receive_messages", "start_client"]

_LOOK_S = 0.1  # how often it is asked whether a relay was found
_TRIES = 3  # how often a person at a terminal is asked again
# How long a client that was told to end by a signal still waits for receipts.
_SIGNAL_LINGER_S = 2.0
# And how long after that it may still take to end, for somebody may not read what we print.
_GIVE_UP_S = 10.0


class _Exit(Exception):
    """The run ends here; the text, if any, is one line for the person."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text)
        self.code = code


class _Ended(BaseException):
    """SIGTERM or SIGHUP: raised in the prompt's thread so that it stops waiting."""


class _Signals:
    """What Ctrl-C, SIGTERM and SIGHUP do: they end whatever the prompt's thread waits for.

    Between its waits nothing may be left half done, such as a child without an owner or a thread
    that nobody joins.  There a signal is noted and ends the next wait.  A second one kills, and so
    does our own clock where the end takes too long: what counts is on disk by then, and a relay of
    ours ends with us.
    """

    def __init__(self) -> None:
        self.engine: Engine | None = None  # told of the end whatever becomes of the exception
        self._waits = False
        self._noted: type[BaseException] | None = None
        self._count = 0
        self._clock: threading.Timer | None = None
        self._before: dict[int, Callable[[int, StackFrame | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # Ignored is how nohup and shells keep a signal from us.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._clock is not None:
            self._clock.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Where a signal raises KeyboardInterrupt or _Ended."""
        try:
            self._waits = True
            if self._noted is not None:
                raise self._noted
            yield
        except (KeyboardInterrupt, _Ended):
            if self._clock is None:
                self._clock = threading.Timer(_SIGNAL_LINGER_S + _GIVE_UP_S, os._exit, (1,))
                self._clock.daemon = True
                self._clock.start()
            raise
        finally:
            self._waits, self._noted = False, None

    def _came(self, number: int, _frame: StackFrame | None) -> None:
        self._count += 1
        is_ctrl_c = number == signal.SIGINT
        if self.engine is not None and not is_ctrl_c:
            self.engine.leave(_SIGNAL_LINGER_S)
        if self._waits:
            raise KeyboardInterrupt if is_ctrl_c else _Ended
        if self._count > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._noted = KeyboardInterrupt if is_ctrl_c else _Ended


def mine_and_send_message(engine: Engine, message: str | Typed, *, wait: bool = False) -> str:
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
    if settings.json:
        terminal: Terminal = open_json_terminal()
    else:
        terminal = open_terminal(
            plain=settings.plain or settings.send is not None,
            quiet=settings.quiet,
            time_format=settings.time_format,
            bell=settings.bell,
        )
    with _Signals() as signals:
        try:
            return _run(settings, terminal, signals)
        except _Exit as exc:
            if str(exc):
                terminal.show(Line(Kind.ERROR, str(exc)))
            return exc.code
        except NotHosted as exc:
            terminal.show(Line(Kind.ERROR, str(exc)))
            return exc.exit_code
        except NoRoom as exc:
            terminal.show(Line(Kind.ERROR, str(exc)))
            return 2
        except (ProfileError, PassphraseError) as exc:
            terminal.show(Line(Kind.ERROR, str(exc)))
            return 6
        except StoreFailed as exc:
            hint = "make room there, or name another folder with --home"
            terminal.show(Line(Kind.ERROR, f"your chain cannot be written ({exc}): {hint}"))
            return 6
        except StoreError as exc:
            hint = "put the profile back from a copy, or start anew with --profile NAME"
            terminal.show(Line(Kind.ERROR, f"{exc}: {hint}"))
            return 6
        except CannotConnect as exc:
            terminal.show(Line(Kind.ERROR, str(exc)))
            return 3
        except (KeyboardInterrupt, _Ended):
            return 0
        finally:
            terminal.close()


def _run(settings: Settings, terminal: Terminal, signals: _Signals) -> int:
    """Everything that may take long comes before the connection: a relay waits 5 s for a JOIN."""
    password = _password(settings)
    with ExitStack() as stack:
        maker = stack.enter_context(ThreadPoolExecutor(1))
        sek = maker.submit(EncryptionManager)  # made while the person answers
        with signals.waiting():
            passphrase = asker(settings.passphrase_file)
            first = partial(passphrase, False) if settings.passphrase_file is not None else None
            profile = stack.enter_context(
                Profile.open(settings.home, settings.profile, passphrase=passphrase, first=first)
            )
            rooms = profile.chain.side(ROOMS_TABLE)
            room = choose_room(settings.room, settings.invite, settings.new_room, rooms)
            memory, balance = profile.recall(room.secret), profile.balance()
        _say_profile(terminal, profile, settings)
        nick = _nick(settings, profile)
        if settings.host is None:
            with signals.waiting():
                address, sock = _ask_and_connect(settings, room, terminal, sek)
                stack.enter_context(sock)
        else:
            flags = ["--no-announce"] if settings.no_announce else []
            if settings.password_file is not None:
                flags.append(f"--password-file={settings.password_file}")
            # Of an invited room the address alone is of no use; see `invite_lines`.
            is_open = room.invite is None
            relay = HostedRelay(
                settings.host, flags, profile.path, terminal, says_addresses=is_open
            )
            stack.callback(relay.stop)
            with signals.waiting():
                sek.result()
                address = ("127.0.0.1", relay.port())
                sock = stack.enter_context(connect(*address))
        if not password and terminal.interactive and settings.send is None:
            with signals.waiting():
                if wants_password(sock):
                    sock.close()  # a relay waits 5 s for a JOIN
                    password = ask_password()
                    sock = stack.enter_context(connect(*address))
        relay_address = None if settings.host is not None else address
        profile.chain.append([], now().ms, room.row(now().ms, rooms, relay_address))
        inbox = Inbox()

        def begin(sek: EncryptionManager, memory: Memory) -> Session:
            return Session(
                profile.keystore,
                room.secret,
                profile.nick or nick,  # /nick may have changed it since
                sek,
                now(),
                room_name=room.name,
                memory=memory,
                heads=Heads(profile.chain.side(HEADS_TABLE)),
                password=password,
                linger_s=settings.linger_s,
            )

        def renew() -> Session:
            return begin(EncryptionManager(), profile.recall(room.secret))

        def join(sock: socket.socket) -> Link:
            return _linked(sock, inbox, stack)

        def invite() -> list[Line]:
            server, port = address
            if is_loopback(server):  # others reach it by another address
                server = next(iter(own_addresses()), server)
            return room.invite_lines(server, port, terminal.columns)

        typed = TypedLines(profile.chain.side(TYPED_TABLE))
        terminal.remember(typed.lines())
        engine = Engine(
            profile,
            begin(sek.result(), memory),
            terminal,
            inbox,
            balance,
            renew,
            partial(connect, *address),
            join,
            invite,
            typed,
        )
        engine.attach(join(sock))
        return _chat(settings, terminal, engine, signals)


def _linked(sock: socket.socket, inbox: Inbox, stack: ExitStack) -> Link:
    """A link over a connection, and its thread, which ends when the engine closes the link."""
    link = Link(sock, inbox)
    thread = threading.Thread(target=receive_messages, args=(link,), name="network")
    thread.start()
    stack.callback(thread.join)
    return link


def _chat(settings: Settings, terminal: Terminal, engine: Engine, signals: _Signals) -> int:
    thread = threading.Thread(target=engine.run, name="engine")
    thread.start()
    signals.engine = engine
    prompt = _Prompt(engine, terminal)
    if terminal.interactive:
        terminal.complete = engine.completions
    try:
        with signals.waiting():
            engine.ready.wait()
            if settings.new_room:
                mine_and_send_message(engine, Command("invite", ""), wait=True)
            if settings.send is None:
                prompt.run()
            else:
                _send(engine, settings.send, settings.to)
    except (KeyboardInterrupt, _Ended):
        engine.leave(_SIGNAL_LINGER_S)
    except BaseException:  # a fault in this program: it ends with a word, and not in a wait
        engine.leave(0.0)
        raise
    finally:
        while not engine.over.is_set():
            try:
                with signals.waiting():
                    engine.over.wait()
            except (KeyboardInterrupt, _Ended):  # the person does not want to wait
                engine.leave(0.0)
        thread.join()
    lost = engine.refused + prompt.unreadable
    if not engine.has_quit:  # what stands behind an `exit` in a file was not meant to be sent
        lost += max(0, engine.untaken - prompt.ended) + prompt.late
    if lost and not (terminal.interactive and settings.send is None):
        many = "s were" if lost > 1 else " was"
        raise _Exit(engine.exit_code or 3, f"{lost} line{many} not sent")
    return engine.exit_code


def _send(engine: Engine, text: str, to: str) -> None:
    """Says one thing and leaves."""
    said = Command("msg", f"{to} {text}") if to else Say(text)
    mine_and_send_message(engine, said, wait=True)
    mine_and_send_message(engine, Command("quit", ""), wait=True)


class _Prompt:
    """Reads lines until the person or program leaves, and counts those that came to nothing."""

    def __init__(self, engine: Engine, terminal: Terminal) -> None:
        self.unreadable = 0  # no text, or too long for a line
        self.ended = 0  # 1: the last line submitted is the /quit that the end of input means
        self.late = 0  # read, when the session was over
        self._engine = engine
        self._terminal = terminal

    def run(self) -> None:
        """Until the session is leaving."""
        draft = ""
        while not self._engine.leaving.is_set():
            try:
                line = self._terminal.read_line("> ", draft)
            except BadInput as exc:
                error = exc.line if isinstance(exc, BadRequest) else Line(Kind.ERROR, str(exc))
                self._terminal.show(error)
                self.unreadable += 1
                draft = exc.text if self._terminal.interactive else ""
                continue
            is_person = self._terminal.interactive
            if line is None:  # leave, after all that was typed before
                late = mine_and_send_message(self._engine, "/quit", wait=is_person)
                self.ended = int(not late)
                break
            left = mine_and_send_message(self._engine, line, wait=is_person)
            draft = left if is_person else ""
            self.late += bool(left) and not is_person


# --------------------------------------------------------------------------- before the chat


def _say_profile(terminal: Terminal, profile: Profile, settings: Settings) -> None:
    if profile.finding is not None:
        text = f"HISTORY TAMPERED: {profile.finding}"
        terminal.show(Line(Kind.ALERT, text, event="history_tampered"))
    has_passphrase = profile.keystore.has_passphrase
    if profile.is_new:
        without = f"without a passphrase: {how_to_protect(profile.name)}"
        how = "behind your passphrase" if has_passphrase else without
        terminal.show(Line(Kind.NOTICE, f"new identity, kept in {profile.path} {how}"))
    warn_if_unprotected(settings, terminal, profile.name, has_passphrase=has_passphrase)
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
    """The relay's, empty without a file.  Raises _Exit."""
    if settings.password_file is None:
        return b""
    try:
        return read_secret(settings.password_file, "password")
    except ValueError as exc:
        raise _Exit(2, str(exc)) from exc


def _ask_and_connect(
    settings: Settings, room: Room, terminal: Terminal, sek: Future[EncryptionManager]
) -> tuple[tuple[str, int], socket.socket]:
    """The relay's address, asked for where settings and invite have none, and a connection to it.

    A person at a terminal is asked again, three times in all; a pipe is not.
    """
    given = _given_address(settings, room)
    tries = _TRIES if given is None and terminal.interactive else 1
    for left in reversed(range(tries)):
        try:
            address = given or _ask_address(terminal, settings.port)
            sek.result()
            return address, connect(*address)
        except CannotConnect as exc:
            problem = _Exit(3, str(exc))
        except ValueError as exc:
            problem = _Exit(2, str(exc))
        if left:
            terminal.show(Line(Kind.ERROR, str(problem)))
    raise problem


def _given_address(settings: Settings, room: Room) -> tuple[str, int] | None:
    """That of the settings, else that of the invite."""
    if settings.server is not None:
        return settings.server, settings.port or DEFAULT_PORT
    if room.invite is not None and room.invite.server:
        return room.invite.server, settings.port or room.invite.port
    return None


def _ask_address(terminal: Terminal, port: int | None) -> tuple[str, int]:
    """Asks for the relay's address, and for its port if it is not known.

    Relays that announce themselves are offered meanwhile; a blank line takes the first of them.
    """
    if not terminal.interactive:
        server = parse_address(_ask(terminal, "Enter server IP: "))
        return server, port or _ask_port(terminal)
    with _Offers(terminal) as offers:
        answer = _ask(terminal, "Enter server IP: ")
    if not answer and offers.found:
        return offers.found[0].address, offers.found[0].port
    server = parse_address(answer)
    return server, port or _ask_port(terminal)


class _Offers:
    """Shows the relays that are found, while the person is asked for one."""

    def __init__(self, terminal: Terminal) -> None:
        self.found: list[Found] = []  # in the order shown
        self._terminal = terminal
        self._browser = Browser()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="offers")

    def __enter__(self) -> Self:
        self._browser.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._browser.__exit__(None, None, None)

    def _look(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            for relay in self._browser.found():
                if relay not in self.found:
                    self.found.append(relay)
                    how = "; Enter takes it" if len(self.found) == 1 else ""
                    text = f"found {relay.name}: {relay.address}, port {relay.port}{how}"
                    self._terminal.show(Line(Kind.NOTICE, text))


def _ask_port(terminal: Terminal) -> int:
    return parse_port(_ask(terminal, "Enter port: ") or str(DEFAULT_PORT))


def _ask(terminal: Terminal, question: str) -> str:
    """Raises BadInput (a ValueError), and _Exit at the end of input."""
    answer = terminal.read_line(question)
    if terminal.interactive and (answer is None or answer.strip().lower() == "exit"):
        raise _Exit(0)
    if answer is None:
        raise _Exit(
            2, f"the input ended at the question {question.strip()!r}: see --server, --port"
        )
    return answer.strip()


def _doctor(settings: Settings, terminal: Terminal) -> int:
    """`doctor SERVER [PORT]`."""
    from chat_doctor import diagnose  # who chats does not wait for it

    assert settings.server is not None, "the command line wants one"

    def say(text: str, ok: bool) -> None:
        terminal.show(Line(Kind.NOTICE if ok else Kind.ALERT, text))

    try:
        password = _password(settings)
        return diagnose(settings.server, settings.port or DEFAULT_PORT, password, say)
    except _Exit as exc:
        terminal.show(Line(Kind.ERROR, str(exc)))
        return exc.code
    except KeyboardInterrupt:
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """The `chainroom` command: returns the exit code (docs in `--help`)."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv, os.environ)
    except UsageError as exc:
        print(f"chainroom: {escape(str(exc))}", file=sys.stderr)
        return 2
    if settings.command == "chat":
        return start_client(settings)
    terminal = open_terminal(plain=settings.plain)
    try:
        if settings.command == "doctor":
            return _doctor(settings, terminal)
        return run_command(settings, terminal)
    finally:
        terminal.close()


if __name__ == "__main__":
    sys.exit(main())
