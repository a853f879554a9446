"""What can be done with a profile without a relay: history, verify, export, wallet, passphrase.

What lives here: the subcommands, each from its settings to its exit code.  What it does not know:
connections, the chat, what a block or a proof holds.

    code = run_command(settings, terminal)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from blockchain import StoreError, Verdict
from chat_answers import Unanswered, coins, export, write_new
from chat_blocks import HEADER_BYTES
from chat_folder import DEFAULT_PROFILE
from chat_history import history
from chat_passphrase import PassphraseError, ask_new, asker, is_person_there, notices
from chat_profile import Profile, ProfileError
from chat_settings import Settings
from chat_terminal import Kind, Line, Terminal
from chat_wire import CLIENT_COMMAND
from crypto_utils import SIGNATURE_BYTES

__all__ = ["how_to_protect", "run_command", "warn_if_unprotected"]

MAX_PROOF_BYTES = 1 << 30  # of a file that is read to be verified: some 4 million blocks
_PROGRESS_EVERY_S = 0.1
_NOT_IN_THE_FILE = (
    "that its end was not cut off, or all of it put back as it once was, only people who hold a "
    "later head of it can tell: they do when you join them"
)


def run_command(settings: Settings, terminal: Terminal) -> int:
    """Runs the subcommand that the settings name; returns the exit code, and says why it is one."""
    commands: dict[str, Callable[[Settings, Terminal], int]] = {
        "history": _history,
        "verify": _verify if settings.file is None else _verify_file,
        "export": _export,
        "wallet": _wallet,
        "passphrase": _passphrase,
    }
    try:
        return commands[settings.command](settings, terminal)
    except Unanswered as exc:
        terminal.show(Line(Kind.ERROR, str(exc)))
        return 1
    except ProfileError as exc:
        return _say(terminal, exc.exit_code, str(exc))
    except (StoreError, PassphraseError) as exc:
        return _say(terminal, 6, str(exc))
    except KeyboardInterrupt:  # before it was done, so it is not known to be well
        return 1
    finally:
        terminal.progress("")


def how_to_protect(profile: str) -> str:
    """Which command sets a passphrase, of the profile of that name and no other."""
    which = "" if profile == DEFAULT_PROFILE else f" --profile {profile}"
    return f"{CLIENT_COMMAND} passphrase{which} sets one"


def warn_if_unprotected(
    settings: Settings, terminal: Terminal, profile: str, *, has_passphrase: bool
) -> None:
    """Who names a file with a passphrase believes that the profile has one."""
    if settings.passphrase_file is not None and not has_passphrase:
        text = f"this profile has no passphrase: {how_to_protect(profile)}"
        terminal.show(Line(Kind.ALERT, text))


def _open(settings: Settings) -> Profile:
    return Profile.open(
        settings.home,
        settings.profile,
        create=False,
        passphrase=asker(settings.passphrase_file),
    )


def _open_to_read(settings: Settings, terminal: Terminal) -> Profile:
    profile = _open(settings)
    warn_if_unprotected(
        settings, terminal, profile.name, has_passphrase=profile.keystore.has_passphrase
    )
    return profile


def _history(settings: Settings, terminal: Terminal) -> int:
    with _open_to_read(settings, terminal) as profile:
        code, before = _say_verdict(profile, terminal)
        is_found = bool(settings.find)  # then the block is of use, for --only and /forget
        lines = history(
            profile.chain, settings.count, settings.find, before=before, numbered=is_found
        )
        for name, chain, verdict in profile.earlier_chains():
            if (left := settings.count - len(lines)) <= 0:
                break
            good = None if verdict.ok else verdict.index
            if found := history(chain, left, settings.find, before=good):
                text = f"from {name}, a chain that was tampered with, as far as it is whole"
                lines = [Line(Kind.NOTICE, text), *found, *lines]
        for line in lines:
            terminal.show(line)
    return code


def _wallet(settings: Settings, terminal: Terminal) -> int:
    with _open_to_read(settings, terminal) as profile:
        code, _ = _say_verdict(profile, terminal)
        balance, checked = profile.balance(), profile.verdict.index
    source = f"the chain up to block {checked - 1}" if checked else "no block of the chain"
    terminal.show(Line(Kind.DIALOGUE, f"{coins(balance)}, from {source}"))
    return code


def _say_verdict(profile: Profile, terminal: Terminal) -> tuple[int, int | None]:
    """The exit code, and the first block that cannot be relied on, if there is one."""
    verdict = profile.verdict
    if verdict.ok:
        return 0, None
    text = f"HISTORY TAMPERED: {verdict}: {verdict.sentence}"
    terminal.show(Line(Kind.ALERT, f"{text}; what follows is from the blocks before it"))
    return verdict.exit_code, verdict.index


def _export(settings: Settings, terminal: Terminal) -> int:
    assert settings.file is not None  # the command line asks for it
    with _open_to_read(settings, terminal) as profile:
        verdict = _deep_verdict(profile)
        if not verdict.ok:
            text = f"{verdict}: {verdict.sentence}; nothing was exported"
            return _say(terminal, verdict.exit_code, text)
        nick = profile.nick or ""
        exported = export(
            profile.chain, nick, settings.format, only=settings.only, peer=settings.peer
        )
    if str(settings.file) == "-":
        terminal.flush()
        _write_out(exported.data)
        return 0
    write_new(settings.file, exported.data)
    text = f"{settings.file}: {exported.size}, readable by you alone"
    terminal.show(Line(Kind.DIALOGUE, text))
    return 0


def _write_out(data: bytes) -> None:
    """To standard output as it is: escaped for the screen it would be another file.

    Raises:
        Unanswered: it is closed, or who reads it went away.
    """
    try:
        with open(1, "wb", closefd=False) as out:
            out.write(data)
    except OSError as exc:
        raise Unanswered(f"standard output cannot be written: {exc.strerror}") from exc


def _deep_verdict(profile: Profile) -> Verdict:
    """As `verify` gives it, where an opening checks the last signature alone: what is handed to
    others is well."""
    from chat_audit import audit  # here, as all that only checks: a chat starts without it

    verdict = profile.verdict
    if verdict.ok:
        verdict = profile.chain.verify()
    return audit(profile.chain) if verdict.ok else verdict


def _verify(settings: Settings, terminal: Terminal) -> int:
    from chat_verification import verify_profile

    worst, was_asked = 0, False
    answer = asker(settings.passphrase_file)

    def ask(again: bool) -> bytes:
        nonlocal was_asked
        was_asked = True
        return answer(again)

    # Where nobody can give it, what can be checked without it is, and the rest is said not to be.
    can_be_given = settings.passphrase_file is not None or is_person_there()
    found = verify_profile(
        settings.home,
        settings.profile,
        deep=not settings.quick,
        passphrase=ask if can_be_given else None,
        progress=_Progress(terminal),
    )
    terminal.progress("")
    name = settings.profile or DEFAULT_PROFILE
    warn_if_unprotected(settings, terminal, name, has_passphrase=was_asked)
    for checked in found:
        worst = _worse(worst, _say(terminal, checked.exit_code, checked.text))
    if worst == 0:
        terminal.show(Line(Kind.NOTICE, _NOT_IN_THE_FILE))
    return worst


def _verify_file(settings: Settings, terminal: Terminal) -> int:
    from chat_proof import check_proof

    assert settings.file is not None
    try:
        data = _read(settings.file)
    except OSError as exc:
        raise Unanswered(f"{settings.file} cannot be read: {exc.strerror or exc}") from exc
    progress = _Progress(terminal)
    name, most = settings.file.name, len(data) // (HEADER_BYTES + SIGNATURE_BYTES)
    report = check_proof(data, progress=lambda done: progress(name, done, most))
    terminal.progress("")
    if report.problem:
        return _say(terminal, report.exit_code, report.problem)
    for line in report.lines():
        terminal.show(Line(Kind.DIALOGUE, line))
    called = report.names
    for message in report.messages:
        label = f"[{message.index}] {called[message.author]}{' (private)' * message.is_private}"
        text = "(erased by the owner)" if message.text is None else message.text
        terminal.show(Line(Kind.MESSAGE, text, label, message.sent_ms))
    return report.exit_code


def _read(path: Path) -> bytes:
    """Raises OSError; and Unanswered for what is too large to be one."""
    with path.open("rb") as file:
        data = file.read(MAX_PROOF_BYTES + 1)
    if len(data) > MAX_PROOF_BYTES:
        raise Unanswered(f"{path} has over {MAX_PROOF_BYTES} bytes, too many for a proof")
    return data


class _Progress:
    """A bar for a person at a terminal, drawn anew ten times a second."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._next_s = time.monotonic() + _PROGRESS_EVERY_S  # what is done at once needs none

    def __call__(self, what: str, done: int, total: int) -> None:
        """So many blocks of so many are checked."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _PROGRESS_EVERY_S
            share = min(1.0, done / max(1, total))
            bar = "#" * int(30 * share)
            self._terminal.progress(f"[{bar:<30}] {share:4.0%}  {what}: {done} of {total} blocks")


def _say(terminal: Terminal, exit_code: int, text: str) -> int:
    match exit_code:
        case 0:
            terminal.show(Line(Kind.DIALOGUE, text))
        case 4:
            terminal.show(Line(Kind.ALERT, f"HISTORY TAMPERED: {text}"))
        case _:
            terminal.show(Line(Kind.ERROR, text))
    return exit_code


def _worse(one: int, other: int) -> int:
    """A finding outweighs what could not be checked."""
    return 4 if 4 in (one, other) else max(one, other)


def _passphrase(settings: Settings, terminal: Terminal) -> int:
    with _open(settings) as profile:
        had = profile.keystore.has_passphrase
        new = b"" if settings.removes_passphrase else ask_new(settings.new_passphrase_file)
        profile.set_passphrase(new)
    for text in notices(had, bool(new)):
        terminal.show(Line(Kind.NOTICE, text))
    return 0
