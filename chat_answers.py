"""What a person asks about the own chain, answered in lines.

What lives here: history, find, forget, export, chain and wallet, for the chat and for the command
line alike.  What it does not know: who asks, where lines are shown, the connection, how blocks are
checked (`blockchain`) and what a proof proves (`chat_proof`).

    for line in block_lines(profile.chain, "17"): terminal.show(line)

A question that cannot be answered is an `Unanswered`, whose text is one line for the person.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from blockchain import Block, Blockchain, BlockType, Verdict
from chat_blocks import ERASABLE
from chat_effects import number
from chat_history import forget, history
from chat_messages import (
    AUDIENCE_ITEM_BYTES,
    ENTRY_HEAD_BYTES,
    Bundle,
    Entry,
    EntryKind,
    Event,
    EventKind,
    SignedEntry,
    audience_items,
    full_name,
)
from chat_profile import Profile
from chat_settings import LAST_BLOCK, format_of
from chat_terminal import Kind, Line

__all__ = [
    "Exported",
    "Unanswered",
    "block_lines",
    "chain_lines",
    "coins",
    "export",
    "export_lines",
    "find_lines",
    "forget_lines",
    "history_lines",
    "said_in",
    "wallet_line",
    "write_new",
]

HISTORY_DEFAULT = 20
FOUND_MOST = 50  # lines that /find shows; the newest
_GROUP_DIGITS = 8  # of a hash that is to be copied on paper


class Unanswered(ValueError):
    """There is no such thing, or it was not asked for properly; the text is one line."""


def coins(count: int) -> str:
    """`1 coin`, `2 coins`."""
    return number(count, "coin")


def _notice(text: str) -> Line:
    return Line(Kind.NOTICE, text)


def _index(text: str, usage: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise Unanswered(f"say it like this: {usage}")
    return int(text)


# --------------------------------------------------------------------------- what was said


def history_lines(chain: Blockchain, argument: str) -> list[Line]:
    """The last messages: as many as `argument` says, or 20.  Raises Unanswered, StoreUnreadable."""
    count = _index(argument or str(HISTORY_DEFAULT), "/history 50")
    if not 0 < count < 10**9:
        raise Unanswered("say it like this: /history 50")
    return history(chain, count)


def find_lines(chain: Blockchain, argument: str) -> list[Line]:
    """Messages that hold a text, each with its block.  Raises Unanswered, StoreUnreadable."""
    if not argument:
        raise Unanswered("say it like this: /find TEXT")
    found = history(chain, FOUND_MOST, argument, numbered=True)
    return found or [_notice(f"no message of your chain holds {argument}")]


def said_in(chain: Blockchain, argument: str) -> str:
    """The text of the block that `/forget 17 yes` is about; empty if it has none.  Raises
    StoreUnreadable."""
    index = argument.split(maxsplit=1)[0] if argument else ""
    block = (
        chain.block(int(index))
        if index.isascii() and index.isdecimal() and len(index) < 16
        else None
    )
    if block is None or block.is_erased or block.type not in ERASABLE:
        return ""
    return SignedEntry.parse(chain.record(block)).entry.text.decode("utf-8", "replace")


def forget_lines(chain: Blockchain, argument: str, now_ms: int) -> list[Line]:
    """`17` shows what would be erased, `17 yes` erases it.  Raises Unanswered and what
    `Blockchain.forget` does."""
    text, *rest = argument.split() or [""]
    index = _index(text, "/forget 17, a block that /find or /chain shows")
    if rest and rest != ["yes"]:
        raise Unanswered(f"say it like this: /forget {index} yes")
    if not rest:
        block = chain.block(index)
        if block is not None and block.type not in ERASABLE:
            raise Unanswered(f"block {index} is no message but {block.type.name.lower()}")
        lasting = "this cannot be undone; others keep their copies, and the chain says it was here"
        ask = f"type /forget {index} yes to erase its text here for good: {lasting}"
        if block is None or block.is_erased:
            return block_lines(chain, text)
        return [*map(_notice, _record_lines(chain, block)), _notice(ask)]
    try:
        block = forget(chain, index, now_ms)
    except ValueError as exc:
        raise Unanswered(str(exc)) from exc
    return [_notice(f"the text of block {index} is erased here; block {block.index} says so")]


# --------------------------------------------------------------------------- the chain


def chain_lines(
    chain: Blockchain, path: Path, verdict: Verdict | str, holders: Sequence[tuple[str, int]]
) -> list[Line]:
    """What there is, whether it is whole, who can tell, and what nobody can.

    Args:
        verdict: of the whole chain; a text: how far it is checked so far.
        holders: names of who said that they hold the signed head of which block.
    """
    head = chain.head()
    digest = head.hash.hex()
    groups = " ".join(digest[i : i + _GROUP_DIGITS] for i in range(0, 64, _GROUP_DIGITS))
    first = chain.block(0)
    since = f" since {_utc(first.timestamp_ms)}" if first is not None else ""
    lines = [
        _notice(f"{number(head.index + 1, 'block')}{since}, in {path}"),
        _notice(f"head of block {head.index}, for your notebook: {groups}"),
    ]
    if isinstance(verdict, str):
        lines.append(_notice(verdict))
    else:
        kind = Kind.NOTICE if verdict.ok else Kind.ALERT
        lines.append(Line(kind, f"{verdict}: {verdict.sentence}"))
    held = ", ".join(f"{name} (block {index})" for name, index in holders)
    lines.append(_notice(f"your signed head is kept by {held}" if held else _UNHELD))
    most = max((index for _, index in holders), default=-1)
    if most < head.index:
        after = f"after block {most}" if holders else "of it"
        lines.append(_notice(f"not provable yet: that nothing {after} was cut off or replaced"))
    lines.append(_notice("never provable: what was not written down, and the clocks' times"))
    return lines


_UNHELD = "nobody who is here has said yet that they hold your head: they do when you say something"


def wallet_line(chain: Blockchain, balance: int) -> Line:
    """The balance, and the block up to which it was derived."""
    index = chain.get_latest_block().index
    return _notice(f"{coins(balance)}, from your chain up to block {index}")


def block_lines(chain: Blockchain, argument: str) -> list[Line]:
    """One block in full.  Raises Unanswered, StoreUnreadable."""
    index = _index(argument, "/chain 17")
    block = chain.block(index)
    if block is None:
        raise Unanswered(f"there is no block {index}: your chain ends at {chain.head().index}")
    kind = block.type.name.lower()
    lines = [
        f"block {index}: {kind}, appended {_utc(block.timestamp_ms)}",
        f"hash {block.calculate_hash().hex()}",
        f"previous {block.previous_hash.hex()}",
        f"signature {block.signature.hex()}",
    ]
    if block.type is BlockType.SENT:
        lines.append(f"mined: {block.difficulty} zero bits with nonce {block.nonce}")
    if block.type is BlockType.FORGET:
        lines.append(f"erases the text of block {block.refers_to}")
    elif block.type is BlockType.GENESIS:
        finding = chain.genesis().finding
        lines.append(f"chain {block.chain_id.hex()}; " + (finding or "it follows no other chain"))
    elif (forgotten_by := chain.erased().get(index)) is not None:
        lines += [f"entry {block.entry_id.hex()}", f"its text was erased by block {forgotten_by}"]
    else:
        lines += [f"entry {block.entry_id.hex()}", *_record_lines(chain, block)]
    return [_notice(line) for line in lines]


def _record_lines(chain: Blockchain, block: Block) -> list[str]:
    record = chain.record(block)
    if block.type is BlockType.EVENT:
        event = Event.parse(record)
        if event.kind == EventKind.BUNDLE:
            bundle = Bundle.parse(event.body, None)
            return [f"who session {bundle.session_id.hex()} is: {bundle.name}"]
        if event.kind == EventKind.FORK:
            other = Entry.of_head(event.body[:ENTRY_HEAD_BYTES])
            author = _sessions(chain, block.index).get(other.session_id)
            who = "session " + other.session_id.hex() if author is None else author.name
            place = f"entry {other.seq} of that session"
            return [f"{who} signed this too: {place}, {other.entry_id.hex()}"]
        return [_decision(event)]
    entry = SignedEntry.parse(record).entry
    author = _sessions(chain, block.index).get(entry.session_id)
    who = "session " + entry.session_id.hex() if author is None else author.name
    lines = [f"{who}, entry {entry.seq} of that session, written {_utc(entry.sent_ms)}"]
    if entry.kind == EntryKind.CHAT:
        is_private = author is not None and entry.tag != author.room_tag
        return [*lines, f"{'private ' if is_private else ''}text: {entry.text.decode()}"]
    if entry.kind == EntryKind.AUDIENCE:
        tags = ", ".join(full_name("", prefix) for prefix in audience_items(entry.text))
        return [*lines, f"who may read what follows: {tags}"]
    return [*lines, f"of kind {entry.kind}, which this version does not know"]


def _decision(event: Event) -> str:
    person, rest = event.body[:32].hex(), event.body[32:].decode("utf-8", "replace")
    match event.kind:
        case EventKind.IGNORE:
            return f"you ignored {person}"
        case EventKind.UNIGNORE:
            return f"you no longer ignored {person}"
        case EventKind.PIN:
            return f"the key of {rest} from then on: {person}"
        case EventKind.VERIFIED:
            return f"you verified {person}"
        case EventKind.UNVERIFIED:
            return f"you took back that you verified {person}"
        case EventKind.ALERT:
            return f"you were warned: {event.body.decode('utf-8', 'replace')}"
        case _:
            return f"event of kind {event.kind}: {event.body.hex()}"


def _sessions(chain: Blockchain, before: int = LAST_BLOCK) -> dict[bytes, Bundle]:
    """Whose each session was said to be last, by the blocks before that one."""
    found: dict[bytes, Bundle] = {}
    for block, record in chain.records(BlockType.EVENT):
        if block.index >= before:
            break
        event = Event.parse(record)
        if event.kind == EventKind.BUNDLE:
            bundle = Bundle.parse(event.body, None)
            found[bundle.session_id] = bundle
    return found


def _utc(ms: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ms // 1000))
    except (OverflowError, ValueError, OSError):  # from outside: any u64
        return "at an impossible time"


# --------------------------------------------------------------------------- for others


class Exported(NamedTuple):
    """What goes into a file."""

    data: bytes
    messages: int

    @property
    def size(self) -> str:
        """For a person."""
        return f"{number(self.messages, 'message')}, {number(len(self.data), 'byte')}"


def export(
    chain: Blockchain,
    nick: str,
    format: str,  # noqa: A002 - as the flag is called
    *,
    only: tuple[int, int] = (0, LAST_BLOCK),
    peer: str = "",
) -> Exported:
    """A file for others: `txt`, `jsonl`, `html` or `proof`.

    What is written is what `verify FILE` would find in the proof, so nothing that is not proven is
    shown as if it were.

    Args:
        only: the first and the last block whose messages are in it.
        peer: a name; messages of that person, and ours to that person alone, are in it.  "": all.

    Raises:
        Unanswered: nobody, or more than one person, has that name; or it would prove nothing.
        StoreUnreadable: a block cannot be read.
    """
    # Here, since every start of a chat would wait for what few chats need.
    from chat_export import as_html, as_jsonl, as_text
    from chat_proof import check_proof, make_proof

    is_wanted = _with(chain, peer) if peer else (lambda _entry: True)
    first, last = only
    proof = make_proof(
        chain,
        nick=nick,
        only=lambda block, signed: first <= block.index <= last and is_wanted(signed),
    )
    report = check_proof(proof, signatures=False)  # of the blocks, which we just read
    if report.problem:
        raise Unanswered(f"nothing was exported: {report.problem}")
    messages = len(report.messages)
    if format == "proof":
        return Exported(proof, messages)
    text = {"txt": as_text, "jsonl": as_jsonl, "html": as_html}[format](report)
    return Exported(text.encode(), messages)


def _with(chain: Blockchain, name: str) -> Callable[[SignedEntry], bool]:
    """Whether an entry is that person's, or ours to that person alone."""
    nick, _, tag = name.partition("#")
    bundles = _sessions(chain)
    people = {
        b.fingerprint: b
        for b in bundles.values()
        if b.nick == nick and b.fingerprint.hex().startswith(tag.lower())
    }
    if len(people) != 1:
        names = ", ".join(sorted(bundle.name for bundle in people.values()))
        raise Unanswered(f"which {name}? {names}" if names else f"nobody called {name} is on it")
    (person,) = people
    pairs = {
        entry.tag
        for _, record in chain.records(BlockType.CONTROL, BlockType.RECEIVED)
        if _is_pair_with(person, entry := SignedEntry.parse(record).entry, bundles)
    }
    theirs = {session_id for session_id, b in bundles.items() if b.fingerprint == person}
    return lambda signed: signed.entry.session_id in theirs or signed.entry.tag in pairs


def _is_pair_with(person: bytes, entry: Entry, bundles: dict[bytes, Bundle]) -> bool:
    """Whether an entry shows that its conversation is ours and that person's alone."""
    author = bundles.get(entry.session_id)
    if author is None or entry.tag == author.room_tag:
        return False
    if entry.kind != EntryKind.AUDIENCE:
        return author.fingerprint == person
    audience = audience_items(entry.text)
    return person[:AUDIENCE_ITEM_BYTES] in audience and len(audience) <= 2


def export_lines(profile: Profile, argument: str) -> list[Line]:
    """`/export FILE`, in the format that FILE ends with.  Raises Unanswered, StoreUnreadable."""
    if not argument:
        raise Unanswered("say it like this: /export FILE.html (or .txt, .jsonl, .proof)")
    try:
        path = Path(argument).expanduser()
    except RuntimeError as exc:
        raise Unanswered(f"nobody's home is known for {argument}") from exc
    exported = export(profile.chain, profile.nick or "", format_of(path))
    write_new(path, exported.data)
    where = f"your history is in {path.absolute()}: {exported.size}, readable by you alone"
    return [_notice(where)]


def write_new(path: Path, data: bytes) -> None:
    """Writes a file where none is, readable by its owner alone, whole or not at all.

    Raises:
        Unanswered: there is something, or it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise Unanswered(f"{path} is there already: nothing was written") from exc
    except (OSError, ValueError) as exc:  # ValueError: a zero byte in its name
        raise Unanswered(f"{path} cannot be written: {_why(exc)}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise Unanswered(f"{path} cannot be written: {_why(exc)}") from exc


def _why(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)
