"""What a proof proves: a value for programs, and in plain words for a person.

What lives here: `Report` and its parts, and how they are told.  What it does not know: how any of
it was checked (`chat_proof`), how it looks in a page or a file (`chat_export`).

    for line in report.lines(): terminal.show(line)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile

from chat_messages import NAME_TAG_DIGITS, full_name

__all__ = ["Message", "Report", "Who", "Witness", "counted", "grouped"]


@dataclass(frozen=True)
class Who:
    """A person: an identity key, and what it called itself."""

    fingerprint: bytes  # 32 bytes
    nick: str

    @property
    def name(self) -> str:
        """nick#first four digits of the fingerprint."""
        return full_name(self.nick, self.fingerprint)


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
    # How many of the owner's disclosed messages it signed for: the last of a conversation, which it
    # has, and through the links of that those before, which it need not have.
    entries: int


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
    late: int = 0  # entries that stand behind others written later, as signatures show
    unseen: int = 0  # numbers within authors' own counting that are not disclosed
    forks: tuple[Who, ...] = ()  # who signed two different entries under one number

    @property
    def names(self) -> dict[Who, str]:
        """What everybody in it is called, no two people the same."""
        authors = (message.author for message in self.messages)
        witnesses = (witness.who for witness in self.witnesses)  # those of a message among them
        return _labels([self.owner, *authors, *witnesses, *self.forks])

    def lines(self) -> list[str]:
        """What a person is told; names and findings are as they came, for the caller to escape."""
        return _Told(self).lines()


# --------------------------------------------------------------------------- in plain words

_MOST_NAMED = 20  # people listed one a line
_MOST_NAMES = 5  # of one person


class _Told:
    """A report for a person: what is proven, by what, and what is not."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._labels = report.names
        self._owner = self._labels[report.owner]

    def lines(self) -> list[str]:
        if self._report.problem:
            return self._failed()
        return [*self._whose(), *self._said(), *self._order(), *self._not_shown(), *self._limits()]

    def _failed(self) -> list[str]:
        report = self._report
        if report.exit_code == 6:
            return ["it could not be checked, so it proves nothing"]
        lines = ["what is signed in it does not fit, so nothing in it can be relied on"]
        if any(report.owner.fingerprint):
            digits = grouped(report.owner.fingerprint, 4)
            lines.append(f"it bears the signature of {self._owner}, fingerprint {digits}")
        return lines

    def _whose(self) -> list[str]:
        report = self._report
        times = f"from {_time(report.started_ms)} to {_time(report.ended_ms)}"
        lines = [
            f"history of {self._owner}, fingerprint {grouped(report.owner.fingerprint, 4)}",
            f"{counted(report.blocks, 'block')} {times} by {self._owner}'s clock",
            f"head, to compare with what others have: {grouped(report.head_hash, 8)}",
        ]
        if report.predecessor is not None:
            why = f": {report.finding}" if report.finding else ""
            lines.append(f"it follows an earlier chain, which is not in this file{why}")
        return lines

    def _said(self) -> list[str]:
        messages = self._report.messages
        counts = Counter(message.author.fingerprint for message in messages)
        if not counts:
            return ["no message is disclosed"]
        what = "this message" if len(messages) == 1 else f"these {len(messages)} messages"
        lines = [f"proven: who wrote {what}, word for word:"]
        names = self._names(message.author for message in messages)
        for fingerprint, count in counts.most_common(_MOST_NAMED):
            digits = grouped(fingerprint, 4)
            lines.append(f"  {count} of {names[fingerprint]}, fingerprint {digits}")
        if len(counts) > _MOST_NAMED:
            more = counted(len(counts) - _MOST_NAMED, "further person", "further people")
            lines.append(f"  the others of {more}")
        lines.append(
            "a name is what a person chose: compare fingerprints with what you know from elsewhere"
        )
        return lines

    def _names(self, people: Iterable[Who]) -> dict[bytes, str]:
        """What each was called, by fingerprint and in the order of their first names."""
        called: dict[bytes, list[str]] = {}
        for who in dict.fromkeys(people):
            called.setdefault(who.fingerprint, []).append(self._labels[who])
        return {fingerprint: _listed(names) for fingerprint, names in called.items()}

    def _order(self) -> list[str]:
        report = self._report
        lines = []
        if report.messages:
            lines.append(
                "proven: each author's own order, and which message of the others he had seen last"
            )
        if report.late:
            lines.append(
                f"{counted(report.late, 'entry', 'entries')} came late: older, as signatures show, "
                f"than some that stand before"
            )
        for names in islice(self._names(report.forks).values(), _MOST_NAMED):
            lines.append(f"two different messages under one number were signed by {names}")
        return lines + self._witnessed()

    def _witnessed(self) -> list[str]:
        report, owner = self._report, self._owner
        lines = [self._one_witness(witness) for witness in report.witnesses[:_MOST_NAMED]]
        if len(report.witnesses) > _MOST_NAMED:
            more = counted(
                len(report.witnesses) - _MOST_NAMED, "further witness", "further witnesses"
            )
            lines.append(f"  and {more}")
        highest = max((witness.index for witness in report.witnesses), default=-1)
        if lines:
            lines.insert(0, "proven: what others signed for, each at some time:")
        if any(witness.entries > 1 for witness in report.witnesses):
            lines.append(
                f"who signed for messages of {owner} named the last, which is linked to those "
                f"before; that he has those as well is not proven"
            )
        if highest == 0:
            lines.append("so block 0 has not changed since then")
        elif highest > 0:
            lines.append(f"so blocks 0 to {highest}, and their order, have not changed since then")
        first, last = highest + 1, report.blocks - 1
        if first == last:
            lines.append(
                f"not proven: block {last}: no witness has it, so {owner} could have written it "
                f"anew"
            )
        elif first < last:
            which = f"blocks {first} to {last}" if first else "the blocks"
            lines.append(
                f"not proven: the order of {which}: no witness has them, so {owner} could have "
                f"written them anew"
            )
        return lines

    def _one_witness(self, witness: Witness) -> str:
        parts = []
        if witness.index >= 0:
            parts.append(f"holds the head of block {witness.index}")
        if witness.entries:
            parts.append(f"signed for {counted(witness.entries, 'message')} of {self._owner}")
        digits = grouped(witness.who.fingerprint, 4)
        what = " and ".join(parts) or f"signed for no disclosed message of {self._owner}"
        return f"  {self._labels[witness.who]} {what}; fingerprint {digits}"

    def _not_shown(self) -> list[str]:
        report = self._report
        lines = []
        if report.undisclosed:
            lines.append(f"not disclosed: {counted(report.undisclosed, 'entry', 'entries')}")
        if report.erased:
            lines.append(f"erased by {self._owner}: {counted(report.erased, 'text')}")
        if report.unseen:
            lines.append(
                f"not in it: {counted(report.unseen, 'entry', 'entries')} that authors numbered "
                f"between others of theirs"
            )
        return lines

    def _limits(self) -> list[str]:
        owner = self._owner
        return [
            f"never proven: that {owner} wrote down and shows all that was said, up to the end",
            "never proven: any time; each is what the clock of its writer said",
            "never proven: who could read a private message",
            "never proven: that nobody else used a person's key",
            f"never proven: that two names are two people, nor that no witness helps {owner}",
        ]


def _listed(names: list[str]) -> str:
    """What one person was called."""
    shown = names[:_MOST_NAMES]
    if len(names) > _MOST_NAMES:
        shown.append(counted(len(names) - _MOST_NAMES, "other name"))
    return ", also ".join(shown)


def _labels(people: Iterable[Who]) -> dict[Who, str]:
    """What each is called, `bob#7f3a`: the tag as long as it takes to differ from everybody else
    of that nick."""
    ordered = sorted({(who.nick, who.fingerprint.hex()): who for who in people}.items())
    keys = [("", ""), *(key for key, _ in ordered), ("", "")]
    shared = [_shared(a[1], b[1]) if a[0] == b[0] else 0 for a, b in pairwise(keys)]
    sizes = (max(NAME_TAG_DIGITS, before + 1, after + 1) for before, after in pairwise(shared))
    return {
        who: f"{nick}#{digits[:size]}"
        for ((nick, digits), who), size in zip(ordered, sizes, strict=True)
    }


def _shared(one: str, other: str) -> int:
    """How many characters they have in common before the first that differs."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def counted(count: int, what: str, plural: str = "") -> str:
    """`1 message`, `2 messages`; `plural` where an s does not make it."""
    return f"{count} {what if count == 1 else plural or what + 's'}"


def grouped(data: bytes, digits: int) -> str:
    """Hexadecimal in groups, to compare by eye or copy on paper."""
    text = data.hex()
    return " ".join(text[i : i + digits] for i in range(0, len(text), digits))


def _time(ms: int) -> str:
    """Of any u64, for a person."""
    try:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    except OverflowError:
        return "an impossible time"
    return f"{when:%Y-%m-%d %H:%M} UTC"
