"""A file that proves a history to a third party: made from a chain, checked with nothing else.

What lives here: the proof's bytes, what they prove, and in plain words what they do not.  What it
does not know: profiles, files, the network, how a report looks in text or HTML (`chat_export`).

    data = make_proof(chain, nick="alice")
    report = check_proof(data)              # on any machine; never raises
    report.exit_code                        # 0 proven, 4 something does not fit, 6 unreadable

Specified in docs/CHAIN_FORMAT.md, "Proof files".
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Message", "Report", "Who", "Witness"]

_TAG_DIGITS = 4  # of a fingerprint, behind a name


@dataclass(frozen=True)
class Who:
    """A person: an identity key, and what it called itself."""

    fingerprint: bytes  # 32 bytes
    nick: str

    @property
    def name(self) -> str:
        """nick#first four digits of the fingerprint."""
        return f"{self.nick}#{self.fingerprint.hex()[:_TAG_DIGITS]}"


@dataclass(frozen=True)
class Message:
    """Something said, with its author's signature checked."""

    index: int  # of its block
    author: Who
    is_own: bool  # the chain's owner wrote it
    is_private: bool  # not to the whole room
    text: str | None  # None: erased; what is not disclosed is not listed at all
    sent_ms: int  # by the author's clock
    appended_ms: int  # by the owner's
    seq: int  # in the author's feed
    session_id: bytes  # the author's, 16 bytes
    tag: bytes  # of the conversation, 16 bytes
    witnesses: tuple[Who, ...]  # who signed for a block that is not before this one


@dataclass(frozen=True)
class Witness:
    """Somebody else who signed for this chain."""

    who: Who
    index: int  # the highest block whose hash, signed by the owner, it says it holds; -1: none
    entries: int  # how many of the owner's disclosed messages it signed that it holds


@dataclass(frozen=True)
class Report:
    """What a proof proves."""

    owner: Who
    chain_id: bytes  # 16 bytes
    blocks: int
    head_hash: bytes  # 32 bytes
    head_signed: bool
    started_ms: int  # the first block's time, by the owner's clock
    ended_ms: int  # the last one's
    finding: str  # what the genesis says was wrong with the chain before; "": nothing
    predecessor: tuple[bytes, int, bytes] | None  # that chain's id, last index and hash
    messages: tuple[Message, ...]  # in the chain's order
    undisclosed: int  # blocks of entries, own or received, that stay a hash
    erased: int  # messages whose text the owner erased
    witnesses: tuple[Witness, ...]
    problem: str = ""  # one sentence
    exit_code: int = 0  # 0, 4 or 6
