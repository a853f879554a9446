"""Checks a proof file with nothing of this project: the standard library and the openssl command.

Written from docs/CHAIN_FORMAT.md, section 9 (whose numbers the comments name) by somebody who had
not read the program.  `python tests/proof_verifier.py FILE` says what is proven; exits 0, 4 or 6.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

SENT, CONTROL, RECEIVED, EVENT, FORGET = 2, 3, 4, 5, 6  # of blocks; 1 is the genesis
ENTRIES = (SENT, CONTROL, RECEIVED)
CHAT, AUDIENCE = 1, 2  # of entries
ACK, WITNESS = 4, 5  # of statements
ZEROS = bytes(32)

RSA_START = bytes.fromhex("308201a2300d06092a864886f70d01010105000382018f003082018a0282018100")
RSA_END = bytes.fromhex("0203010001")
ED25519_START = bytes.fromhex("302a300506032b6570032100")  # SPKI of such a key (RFC 8410)
P = 2**255 - 19  # of Ed25519: its field, its order, its curve (RFC 8032)
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef#:]"
)


class Unreadable(Exception):
    """Exit 6."""


class Wrong(Exception):
    """Exit 4."""


class Bundle(NamedTuple):
    nick: str
    tag: bytes
    identity: bytes
    session: bytes
    chain_id: bytes
    csk: bytes
    ssk: bytes


class Block(NamedTuple):
    type: int
    time: int
    entry_id: bytes
    refers_to: int
    hash: bytes


class Entry(NamedTuple):
    kind: int
    session: bytes
    tag: bytes
    seq: int
    previous: bytes
    seen: bytes
    sent_ms: int
    text: bytes | None  # None: erased


Feed = tuple[bytes, bytes, bytes]  # its author's IK, session_id, tag


class Message(NamedTuple):
    block: int
    nick: str
    fingerprint: str
    text: str | None
    private: bool
    sent_ms: int
    block_ms: int
    seq: int
    session: bytes
    tag: bytes


class Witness(NamedTuple):
    nick: str
    fingerprint: str
    block: int  # -1: it signed for none
    signed_for: int  # how many of the owner's messages


@dataclass
class Result:
    """9.4; with an exit code that is not 0 all but `why` is empty."""

    code: int
    why: str = ""
    nick: str = ""
    fingerprint: str = ""
    chain_id: bytes = b""
    blocks: list[Block] = field(default_factory=list)
    predecessor: tuple[bytes, int, bytes] = (b"", 0, b"")
    finding: str = ""
    messages: list[Message] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    erased: int = 0
    undisclosed: int = 0
    late: int = 0
    unseen: int = 0
    forks: list[tuple[str, str]] = field(default_factory=list)  # nick, fingerprint


class Reader:
    """Takes fields from the front of bytes; too few or too many are the refusal given."""

    def __init__(self, data: bytes, refusal: Exception) -> None:
        self.data, self.at, self.refusal = data, 0, refusal

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise self.refusal
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def prefixed(self) -> bytes:
        return self.take(self.number(2))

    def count(self, least: int) -> int:
        """A u32, of things that have at least so many bytes each."""
        count = self.number(4)
        if count * least > len(self.data) - self.at:
            raise self.refusal
        return count

    def end(self) -> None:
        if self.at != len(self.data):
            raise self.refusal


def labelled(label: str, body: bytes) -> bytes:
    return b"chainroom/1 " + label.encode() + b"\0" + body


def H(label: str, body: bytes) -> bytes:
    return hashlib.sha256(labelled(label, body)).digest()


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


@lru_cache(4096)
def openssl_accepts(key: bytes, message: bytes, signature: bytes) -> bool:
    """About 6 ms; the key is SPKI, and says by its length of which kind it is."""
    rsa = "-digest sha256 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:32"
    with TemporaryDirectory() as folder:
        for name, data in (("key", key), ("message", message), ("signature", signature)):
            (Path(folder) / name).write_bytes(data)
        command = "openssl pkeyutl -verify -pubin -inkey key -keyform DER -rawin -in message"
        command += " -sigfile signature " + (rsa if len(key) == 422 else "")
        run = subprocess.run(command.split(), cwd=folder, capture_output=True, check=False)
        return run.returncode == 0


class Signed:
    """Signatures that are still to be checked: all at once, as each is a process of its own."""

    def __init__(self) -> None:
        self.waiting: set[tuple[str, bytes, bytes, bytes]] = set()

    def rsa(self, key: bytes, label: str, body: bytes, signature: bytes) -> None:
        self.waiting.add((label, key, labelled(label, body), signature))

    def ed25519(self, key: bytes, label: str, body: bytes, signature: bytes) -> None:
        must(int.from_bytes(signature[32:], "little") < ORDER, "a signature has S ≥ L")
        self.waiting.add((label, ED25519_START + key, labelled(label, body), signature))

    def check(self) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda one: (openssl_accepts(*one[1:]), one[0]), self.waiting)
            wrong = sorted({label for fits, label in found if not fits})
        must(not wrong, f"signatures that do not fit: {', '.join(wrong)}")


def check_rsa_key(key: bytes) -> None:
    modulus = key[len(RSA_START) : -len(RSA_END)]
    must(key == RSA_START + modulus + RSA_END and len(modulus) == 384, "an RSA key's encoding")
    must(modulus[0] >= 128 and modulus[-1] % 2 == 1, "an RSA key's modulus")


def check_ed25519_key(key: bytes) -> None:
    y = int.from_bytes(key, "little") % 2**255
    # Of an order that divides 8: y = ±1, y = 0, or twice the point has y = 0.
    small = y in (0, 1, P - 1) or (D * y**4 + 2 * y**2 - 1) % P == 0
    must(y < P and not small, "an Ed25519 key")


def nick_of(data: bytes) -> str:
    try:
        nick = data.decode()
    except UnicodeDecodeError:
        raise Wrong("a name that is no UTF-8") from None
    category = [unicodedata.category(character) for character in nick]
    must(
        1 <= len(nick) <= 32
        and unicodedata.is_normalized("NFC", nick)
        and not any(c[0] == "Z" or c in ("Cc", "Cf", "Cs") for c in category)
        and not UNSEEN.search(nick)
        and nick[0] not in "/-"
        and category[0][0] != "M",
        "a name outside the grammar",
    )
    return nick


def bundle_of(data: bytes, signed: Signed) -> Bundle:
    """9.2."""
    must(len(data) <= 4096, "a bundle is too long")
    read = Reader(data, Wrong("a bundle's length"))
    must(read.number(1) == 1, "a bundle's version")
    tag, identity, nick = read.take(16), read.prefixed(), nick_of(read.prefixed())
    session, ssk, _number, sek = read.take(16), read.take(32), read.number(4), read.prefixed()
    chain_id, csk, _room_proof, signature = (read.take(n) for n in (16, 32, 32, 384))
    read.end()
    check_rsa_key(identity)
    check_rsa_key(sek)
    must(sek != identity, "a bundle's SEK is its IK")
    of_both = H("session", H("identity", identity) + ssk)
    must(session == of_both[:16], "a session_id that is not of its person and key")
    check_ed25519_key(ssk)
    check_ed25519_key(csk)
    signed.rsa(identity, "bundle sig", data[:-384], signature)
    return Bundle(nick, tag, identity, session, chain_id, csk, ssk)


def entry_of(head: bytes, body: tuple[bytes, bytes] | None) -> Entry:
    """9.2; body is salt and text, or None of one that was erased."""
    read = Reader(head, Wrong("an entry's length"))
    must(read.number(1) == 1, "an entry's version")
    kind, tag, session, seq = read.number(1), read.take(16), read.take(16), read.number(8)
    previous, seen, sent_ms = read.take(32), read.take(32), read.number(8)
    text_hash = read.take(32)
    read.end()
    must(seq >= 1, "an entry's seq is 0")
    text = None
    if body is not None:
        text = body[1]
        must(H("text", b"".join(body)) == text_hash, "a text is not the one of its head")
        if kind == CHAT:
            must(1 <= len(text) <= 16384, "a text's length")
            try:
                text.decode()
            except UnicodeDecodeError:
                raise Wrong("a text is no UTF-8") from None
        elif kind == AUDIENCE:
            each = [text[i : i + 16] for i in range(0, len(text), 16)]
            must(len(text) % 16 == 0 and len(each) <= 2048, "an audience's length")
            must(each == sorted(set(each)), "an audience does not rise")
    return Entry(kind, session, tag, seq, previous, seen, sent_ms, text)


def zero_bits(data: bytes) -> int:
    return len(data) * 8 - int.from_bytes(data, "big").bit_length()


def verify(data: bytes) -> Result:
    try:
        return checked(data)
    except Unreadable as refusal:
        return Result(6, str(refusal))
    except Wrong as refusal:
        return Result(4, str(refusal))


def checked(data: bytes) -> Result:
    # 9.1: what is no such file comes first, whatever else is wrong with it.
    read = Reader(data, Unreadable("no proof file, or cut off, or with bytes behind its end"))
    if read.take(5) != b"CRP1\1":
        raise Unreadable("no proof file, or of another version")
    nick_bytes, genesis = read.prefixed(), read.prefixed()
    rows = [(read.take(150), read.take(64)) for _ in range(read.count(214))]
    records = [(read.number(8), read.prefixed()) for _ in range(read.count(10))]
    statements = [(read.prefixed(), read.prefixed()) for _ in range(read.count(4))]
    file_signature = read.take(64)
    read.end()
    read = Reader(genesis, Unreadable("a genesis that is none"))
    spki, csk, certificate = read.prefixed(), read.take(32), read.take(384)
    predecessor = (read.take(16), read.number(8), read.take(32))
    try:
        finding = read.prefixed().decode()
    except UnicodeDecodeError:
        raise read.refusal from None
    read.end()

    # 9.3, 1: the owner.  The file's signature goes first, as nothing else is worth a look without.
    must(bool(rows), "no row")
    check_rsa_key(spki)
    check_ed25519_key(csk)
    whole = Signed()
    whole.ed25519(csk, "proof sig", data[:-64], file_signature)
    whole.check()
    chain_id = rows[0][0][6:22]
    signed = Signed()
    signed.rsa(spki, "chain cert", chain_id + csk, certificate)
    nick = nick_of(nick_bytes) if nick_bytes else ""

    # 2: the blocks.
    must(hashlib.sha256(genesis).digest() == rows[0][0][70:102], "another genesis than block 0's")
    blocks: list[Block] = []
    for i, (header, signature) in enumerate(rows):
        read = Reader(header, Wrong("a header's length"))
        magic, kind, difficulty = read.take(4), read.number(1), read.number(1)
        must(magic == b"CRB1" and 1 <= kind <= 6 and (kind == 1) == (i == 0), f"block {i}: type")
        must(read.take(16) == chain_id and read.number(8) == i, f"block {i}: chain or index")
        before = blocks[-1].hash if blocks else ZEROS
        must(read.take(32) == before, f"block {i}: it does not follow the one before")
        time, _body_hash, entry_id = read.number(8), read.take(32), read.take(32)
        _nonce, refers_to = read.number(8), read.number(8)
        read.end()
        hashed = H("block", header)
        must(kind != SENT or 8 <= difficulty <= zero_bits(hashed), f"block {i}: mining")
        signed.ed25519(csk, "block sig", chain_id + header[22:30] + hashed, signature)
        blocks.append(Block(kind, time, entry_id, refers_to, hashed))
    by_id: dict[bytes, int] = {}  # the first block of each entry, which alone counts
    for i, block in enumerate(blocks):
        if block.type in ENTRIES and by_id.setdefault(block.entry_id, i) != i:
            must(block.type == RECEIVED, f"block {i}: the owner's entry once more")

    # 3: the records.
    known: dict[bytes, list[tuple[int, Bundle]]] = defaultdict(list)  # by session_id, with indices
    own_sessions: set[bytes] = set()
    disclosed: dict[int, Entry] = {}
    authors: dict[int, Bundle] = {}  # of what is disclosed
    stories: list[tuple[Bundle, Entry, bytes]] = []  # that with its entry_id, and of other stories

    def is_own(bundle: Bundle) -> bool:
        return (bundle.identity, bundle.csk, bundle.chain_id) == (spki, csk, chain_id)

    def feed_of(i: int) -> Feed:
        return authors[i].identity, disclosed[i].session, disclosed[i].tag

    def author_of(i: int, entry: Entry, head: bytes, signature: bytes) -> Bundle:
        """Whose bundle goes with what block i records."""
        goes_with = [bundle for at, bundle in known[entry.session] if at < i]
        must(bool(goes_with), f"block {i}: no bundle of its author")
        signed.ed25519(goes_with[-1].ssk, "entry sig", head, signature)
        return goes_with[-1]

    def disclose(i: int, head: bytes, body: tuple[bytes, bytes] | None, signature: bytes) -> None:
        entry = entry_of(head, body)
        must(H("entry", head) == blocks[i].entry_id, f"block {i}: another entry")
        bundle = author_of(i, entry, head, signature)
        if blocks[i].type != RECEIVED:
            must(is_own(bundle), f"block {i}: the owner's, by somebody else")
            must(entry.kind == (CHAT if blocks[i].type == SENT else AUDIENCE), f"block {i}: kind")
        if i not in disclosed and by_id[blocks[i].entry_id] == i:
            disclosed[i], authors[i] = entry, bundle

    last = 0
    for i, record in records:
        must(last < i < len(blocks), "records do not rise, or are of no block")
        last, block = i, blocks[i]
        read = Reader(record, Wrong(f"block {i}: its record's length"))
        if block.type == EVENT:
            must(H("event", record) == block.entry_id, f"block {i}: another event")
            _salt, kind, body = read.take(16), read.number(1), record[17:]
            if kind == 1:
                bundle = bundle_of(body, signed)
                known[bundle.session].append((i, bundle))
                if is_own(bundle):
                    own_sessions.add(bundle.session)
            elif kind == 8:
                must(len(body) == 210, f"block {i}: the length of what it holds")
                other = entry_of(body[:146], None)
                bundle = author_of(i, other, body[:146], body[146:])
                stories.append((bundle, other, H("entry", body[:146])))
        elif block.type == FORGET:
            if record:
                head, signature = read.take(146), read.take(64)
                read.end()
                at = block.refers_to
                must(at < i and blocks[at].type in ENTRIES, f"block {i}: what it erases")
                disclose(at, head, None, signature)
        else:
            head, salted = read.take(146), (read.take(16), read.prefixed())
            signature = read.take(64)
            read.end()
            disclose(i, head, salted, signature)

    # What is asked of feeds below and in 9.4: how many messages lead to each disclosed entry one by
    # one, that one too; and which seqs a feed has.
    chains: dict[int, int] = {}
    seqs: dict[Feed, set[int]] = defaultdict(set)
    late: set[int] = set()
    for i, entry in sorted(disclosed.items()):
        before_it = by_id.get(entry.previous, i)
        earlier = disclosed.get(before_it)
        feed = feed_of(i)
        is_next = before_it < i and earlier and earlier.seq == entry.seq - 1
        count = chains[before_it] if is_next and feed_of(before_it) == feed else 0
        chains[i] = count + (entry.kind == CHAT)
        seqs[feed].add(entry.seq)
        stories.append((authors[i], entry, blocks[i].entry_id))
        named = (by_id.get(name, i) for name in (entry.previous, entry.seen))
        late |= {at for at in named if at > i}

    # 4: the statements.
    heads: dict[bytes, list[tuple[int, str]]] = defaultdict(list)  # by identity: index, nick
    signed_for: dict[bytes, Counter[Feed]] = defaultdict(Counter)  # and by feed

    def check_head(index: int, hashed: bytes) -> int:
        holds = index < len(blocks) and blocks[index].hash == hashed
        must(holds, f"a witness saw another chain at block {index}")
        return index

    before = b""
    for carried, payload in statements:
        must(before < payload, "statements do not rise")
        before, bundle = payload, bundle_of(carried, signed)
        must(bundle.identity != spki, "the owner as a witness")
        read = Reader(payload, Wrong("a statement's length"))
        must(read.number(1) == 1, "a statement's version")
        kind, session, tag = read.number(1), read.take(16), read.take(16)
        must(session == bundle.session, "a statement of another session")
        indices = [-1]
        if kind == WITNESS:
            _recipient, head = read.take(16), read.take(56)
            signed.ed25519(csk, "block sig", head, read.take(64))
            index, hashed = int.from_bytes(head[16:24], "big"), head[24:]
            must(head[:16] == chain_id and hashed != ZEROS, "a head of another chain, or of none")
            indices.append(check_head(index, hashed))
        else:
            must(kind == ACK and len(payload) <= 65519, "a statement's kind or length")
            must(read.number(4) >= 1, "an ack's number is 0")
            read.take(32)
            own = 0
            for _ in range(read.number(2)):
                feed, seq, entry_id = (spki, read.take(16), tag), read.number(8), read.take(32)
                missing = [read.number(8) for _ in range(read.number(2))]
                index, hashed = read.number(8), read.take(32)
                must(seq > 0 and len(missing) <= 64, "a feed's seq is 0, or too many are missing")
                must([0, *missing, seq] == sorted({0, *missing, seq}), "missing ones do not rise")
                must(hashed != ZEROS or index == 0, "a witnessed index without hash")
                if feed[1] not in own_sessions:
                    continue
                own += 1
                at = by_id.get(entry_id, 0)
                must(blocks[at].type in (SENT, CONTROL), "an ack of what is not the owner's")
                if at in disclosed:
                    its_seq = disclosed[at].seq
                    must((feed_of(at), its_seq) == (feed, seq), "an ack's seq or conversation")
                    signed_for[bundle.identity][feed] = max(
                        chains[at], signed_for[bundle.identity][feed]
                    )
                if hashed != ZEROS:
                    indices.append(check_head(index, hashed))
            must(own > 0, "an ack of nothing of the owner's")
            _chain_id, _index, hashed = read.take(16), read.number(8), read.take(32)
            must(hashed != ZEROS, "an ack's own head is none")
            read.take(64)
        signature = read.take(64)
        read.end()
        label = "ack sig" if kind == ACK else "witness sig"
        signed.ed25519(bundle.ssk, label, payload[:-64], signature)
        heads[bundle.identity].append((max(indices), bundle.nick))
    signed.check()
    if len(heads) > 2048:  # 9.1
        raise Unreadable("statements of more than 2,048 people")

    # 9.4: what comes out.
    def fingerprint(identity: bytes) -> str:
        return H("identity", identity).hex()

    result = Result(0, "", nick, fingerprint(spki), chain_id, blocks, predecessor, finding)
    for i, shown in sorted(disclosed.items()):
        author = authors[i]
        who = (author.nick, fingerprint(author.identity))
        if shown.kind == CHAT:
            said = None if shown.text is None else shown.text.decode()
            is_private, times = shown.tag != author.tag, (shown.sent_ms, blocks[i].time)
            place = (shown.session, shown.tag)
            message = Message(i, *who, said, is_private, *times, shown.seq, *place)
            result.messages.append(message)
    for identity, of_person in heads.items():
        index, name = max(of_person, key=lambda one: one[0])  # the first of them
        total = sum(signed_for[identity].values())
        result.witnesses.append(Witness(name, fingerprint(identity), index, total))
    places: dict[tuple[bytes, bytes, bytes, int], set[bytes]] = defaultdict(set)
    for author, entry, its_id in stories:
        feed = (author.identity, entry.session, entry.tag)
        places[(*feed, entry.seq)].add(its_id)
        places[(*feed, entry.seq - 1)].add(entry.previous)
    for author, entry, _ in stories:
        feed = (author.identity, entry.session, entry.tag)
        who = (author.nick, fingerprint(author.identity))
        two = any(len(places[(*feed, seq)]) > 1 for seq in (entry.seq - 1, entry.seq))
        if two and who not in result.forks:
            result.forks.append(who)
    texts = {i for i, entry in disclosed.items() if entry.text is not None}
    erased = {b.refers_to for i, b in enumerate(blocks) if b.type == FORGET and b.refers_to < i}
    erased = {i for i in by_id.values() if i in erased - texts and blocks[i].type != CONTROL}
    result.erased = len(erased)
    result.undisclosed = len(set(by_id.values()) - erased - texts)
    result.late = len(late)
    result.unseen = sum(max(of_feed) - min(of_feed) + 1 - len(of_feed) for of_feed in seqs.values())
    return result


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: proof_verifier.py FILE", file=sys.stderr)
        return 2
    try:
        result = verify(Path(arguments[0]).read_bytes())
    except OSError as error:
        result = Result(6, str(error))
    if result.code:
        print("not proven:" if result.code == 4 else "cannot be read:", result.why)
        return result.code
    print(f"owner {result.nick or '(no name)'} {result.fingerprint}")
    print(f"chain {result.chain_id.hex()}, {len(result.blocks)} blocks")
    print(f"head {result.blocks[-1].hash.hex()}")
    if result.finding:
        print(f"found before it: {result.finding!r}")
    for m in result.messages:  # as Python writes strings: nothing in them moves a cursor
        text = "(erased)" if m.text is None else repr(m.text)
        by = " ".join(
            f"{w.nick}#{w.fingerprint[:4]}" for w in result.witnesses if w.block >= m.block
        )
        print(f"block {m.block}, {m.nick} {m.fingerprint}{', private' * m.private}: {text}")
        print(f"    witnessed by {by or 'nobody'}")
    for w in result.witnesses:
        print(f"witness {w.nick} {w.fingerprint}: head of block {w.block}, {w.signed_for} messages")
    for name in ("undisclosed", "erased", "late", "unseen", "forks"):
        print(name, getattr(result, name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
