"""Proof files that each break one rule of CHAIN_FORMAT.md 9 while all else is signed rightly, and
some that look as if they did.

    for case in forged_cases(): case.why, case.data, case.exit_code

For tests/vectors/proof.json.  Written by hand, field by field, as no chain in a file would take
what stands in them; keys, bundles and salts are the same in all, so that a verifier that remembers
signatures has few to check.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from proofs import NOW, PRIVATE, ZEROS, Parts, Speaker
from simulated_room import LOBBY, session_keys

from blockchain import Head
from chat_messages import Ack, Entry, FeedReport, KeyRequest, session_id_of
from chat_messages import Witness as WitnessPayload
from chat_wire import H, Label, prefixed, u8, u32, u64
from crypto_utils import Identity

GENESIS, SENT, CONTROL, RECEIVED, EVENT, FORGET = range(1, 7)  # of blocks
CHAT, AUDIENCE = 1, 2  # of entries
SALT = b"salt".ljust(16)
ANOTHER_TAG = b"another 16 bytes"
LEVEL = 8  # zero bits

P = 2**255 - 19  # Ed25519: its field and its order (RFC 8032)
ORDER = 2**252 + 27742317777372353535851937790883648493
NEUTRAL = (1).to_bytes(32, "little")  # as a key, it accepts NEUTRAL ‖ zeros for every message
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")


@dataclass(frozen=True)
class Case:
    why: str
    data: bytes
    exit_code: int = 4


@cache
def person(name: str) -> Speaker:
    """The same one for each name."""
    return Speaker(name)


# --------------------------------------------------------------------------- keys


def odd_exponent(identity: Identity) -> tuple[bytes, rsa.RSAPrivateKey]:
    """The same modulus with another exponent, 65,539: SPKI and a key that signs."""
    numbers = private(identity).private_numbers()
    e = 65539
    d = pow(e, -1, (numbers.p - 1) * (numbers.q - 1))
    made = rsa.RSAPrivateNumbers(
        numbers.p,
        numbers.q,
        d,
        d % (numbers.p - 1),
        d % (numbers.q - 1),
        numbers.iqmp,
        rsa.RSAPublicNumbers(e, numbers.public_numbers.n),
    ).private_key()
    return identity.spki[:-1] + b"\x03", made


def private(identity: Identity) -> rsa.RSAPrivateKey:
    key = load_der_private_key(identity.to_pkcs8(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def pss(key: rsa.RSAPrivateKey, label: bytes, body: bytes, salt: int = 32) -> bytes:
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    return key.sign(label + body, scheme, hashes.SHA256())


def low(spki: bytes) -> bytes:
    """A modulus of 3,071 bits."""
    return spki[:33] + bytes([spki[33] & 0x7F]) + spki[34:]


def even(spki: bytes) -> bytes:
    return spki[:-6] + bytes([spki[-6] & 0xFE]) + spki[-5:]


# --------------------------------------------------------------------------- values


@cache
def genesis(owner: Speaker) -> bytes:
    keys = owner.keys
    key = keys.chain_signing_key.public
    certificate = keys.identity.sign(Label.CHAIN_CERT, keys.chain_id + key)
    return genesis_of(keys.identity.spki, key, certificate)


def genesis_of(spki: bytes, key: bytes, certificate: bytes, finding: bytes = b"") -> bytes:
    return prefixed(spki) + key + certificate + bytes(16 + 8 + 32) + prefixed(finding)


@cache
def bundle(who: Speaker, *, behind: bytes = b"", signature: bytes = b"", **changed: bytes) -> bytes:
    """`changed` fields are those of 9.2; `behind` comes after them, not signed."""
    identity = changed.get("identity", who.keys.identity.spki)
    ssk = changed.get("ssk", who.session_key.public)
    fields = {
        "version": u8(1),
        "tag": LOBBY.tag,
        "identity": identity,
        "nick": who.bundle.nick.encode(),
        "session": session_id_of(H(Label.IDENTITY, identity), ssk),
        "ssk": ssk,
        "number": u32(1),
        "sek": session_keys("anybody", 0).get_public_key(),
        "chain_id": who.keys.chain_id,
        "csk": who.keys.chain_signing_key.public,
    } | changed
    for name in ("identity", "nick", "sek"):
        fields[name] = prefixed(fields[name])
    body = b"".join(fields.values()) + bytes(32)  # room_proof, which nobody looks at here
    return body + (signature or who.keys.identity.sign(Label.BUNDLE_SIG, body)) + behind


def odd_bundle(who: Speaker) -> bytes:
    """Under an identity with another exponent than 65,537."""
    spki, key = odd_exponent(who.keys.identity)
    body = bundle(who, identity=spki)[:-384]
    return body + pss(key, Label.BUNDLE_SIG, body)


def entry(
    who: Speaker,
    text: str | bytes,
    seq: int = 1,
    *,
    kind: int = CHAT,
    previous: bytes = ZEROS,
    tag: bytes = LOBBY.tag,
) -> bytes:
    """A SignedEntry."""
    data = text.encode() if isinstance(text, str) else text
    made = Entry(kind, tag, who.session_id, seq, previous, ZEROS, NOW, SALT, data)
    return made.sign(who.session_key).serialize()


def of_version_2(who: Speaker) -> bytes:
    """A SignedEntry."""
    changed = b"\2" + entry(who, "hi")[1:]
    return changed[:-64] + who.session_key.sign(Label.ENTRY_SIG, changed[:146])


def entry_id(record: bytes) -> bytes:
    return H(Label.ENTRY, record[:146])


def kept(record: bytes) -> bytes:
    """What a forget block keeps of an entry."""
    return record[:146] + record[-64:]


def event(kind: int, body: bytes) -> bytes:
    return SALT + u8(kind) + body


def resigned(payload: bytes, who: Speaker, label: bytes) -> bytes:
    """All but the last 64 bytes of it, signed."""
    return payload[:-64] + who.session_key.sign(label, payload[:-64])


class ForgedChain:
    """A chain and a proof of it, by somebody who keeps to no rule but signs rightly."""

    def __init__(self, *met: bytes, body: bytes = b"", first: int = GENESIS) -> None:
        """`met` are bundles; `body` is the genesis', of type `first`."""
        self.owner = person("alice")
        self.genesis = body or genesis(self.owner)
        self.records: dict[int, bytes] = {}
        self.hashes: list[bytes] = []
        self._rows: list[bytes] = []
        self._statements: list[tuple[bytes, bytes]] = []
        self.add(first)
        for raw in met:
            self.meets(raw)

    def add(
        self, kind: int, its_id: bytes = ZEROS, record: bytes | None = None, **other: Any
    ) -> int:
        """The index of a new block; `other` fields of its header are those of section 2, "mined"
        how many zero bits its hash has exactly, "place" the chain_id ‖ index that is signed."""
        mined = other.pop("mined", LEVEL if kind == SENT else None)
        place = other.pop("place", None)
        index = len(self._rows)
        fields: dict[str, Any] = {
            "magic": b"CRB1",
            "type": kind,
            "difficulty": LEVEL if kind == SENT else 0,
            "chain_id": self.owner.keys.chain_id,
            "index": index,
            "previous_hash": self.hashes[-1] if self.hashes else ZEROS,
            "time": NOW,
            "body_hash": ZEROS if index else hashlib.sha256(self.genesis).digest(),
            "entry_id": its_id,
            "nonce": 0,
            "refers_to": 0,
        } | other
        while True:
            header = struct.pack(">4sBB16sQ32sQ32s32sQQ", *fields.values())
            its_hash = H(Label.BLOCK, header)
            if mined is None or zero_bits(its_hash) == mined:
                break
            fields["nonce"] += 1
        self.hashes.append(its_hash)
        signed = (place or header[6:30]) + its_hash
        signature = self.owner.keys.chain_signing_key.sign(Label.BLOCK_SIG, signed)
        self._rows.append(header + signature)
        if record is not None:
            self.records[index] = record
        return index

    def meets(self, raw: bytes) -> int:
        return self.happens(1, raw)

    def happens(self, kind: int, body: bytes) -> int:
        record = event(kind, body)
        return self.add(EVENT, H(Label.EVENT, record), record)

    def keeps(self, kind: int, record: bytes, *, shown: bool = True) -> int:
        """An entry."""
        return self.add(kind, entry_id(record), record if shown else None)

    def forgets(self, index: int, record: bytes) -> int:
        return self.add(FORGET, record=record, refers_to=index)

    # ----------------------------------------------------------------- witnesses

    def says(self, count: int) -> list[bytes]:
        """The owner's first messages, each linked to the one before."""
        self.meets(bundle(self.owner))
        said: list[bytes] = []
        for seq in range(1, count + 1):
            previous = entry_id(said[-1]) if said else ZEROS
            said.append(entry(self.owner, f"message {seq}", seq, previous=previous))
            self.keeps(SENT, said[-1])
        return said

    def report(self, record: bytes, seq: int, **other: Any) -> FeedReport:
        """Of the owner's feed, up to the entry `record`."""
        return replace(FeedReport(self.owner.session_id, seq, entry_id(record)), **other)

    def ack(self, who: Speaker, *feeds: FeedReport, **other: Any) -> bytes:
        head = Head(who.keys.chain_id, 7, b"of another chain".ljust(32), bytes(64))
        fields: dict[str, Any] = {
            "tag": LOBBY.tag,
            "number": 1,
            "digest": ZEROS,
            "feeds": feeds,
            "head": head,
        }
        return Ack.create(who.session_key, who.session_id, **(fields | other)).serialize()

    def head(self, at: int, **other: Any) -> Head:
        """Of that block, or with other fields; signed by the owner."""
        head = replace(Head(self.owner.keys.chain_id, at, self.hashes[at], b""), **other)
        signed = head.chain_id + u64(head.index) + head.hash
        return replace(
            head, signature=self.owner.keys.chain_signing_key.sign(Label.BLOCK_SIG, signed)
        )

    def witness(self, who: Speaker, head: Head) -> bytes:
        key, mine, theirs = who.session_key, who.session_id, self.owner.session_id
        return WitnessPayload.create(key, mine, LOBBY.tag, theirs, head).serialize()

    def states(self, raw: bytes, payload: bytes) -> None:
        """A statement; `raw` is its bundle."""
        self._statements.append((raw, payload))

    def file(self, nick: bytes = b"") -> bytes:
        return self.parts(nick).signed_by(self.owner)

    def parts(self, nick: bytes = b"") -> Parts:
        statements = tuple(sorted(self._statements, key=lambda statement: statement[1]))
        records = tuple(sorted(self.records.items()))
        return Parts(nick, self.genesis, tuple(self._rows), records, statements)


def zero_bits(data: bytes) -> int:
    return len(data) * 8 - int.from_bytes(data, "big").bit_length()


# --------------------------------------------------------------------------- cases


def forged_cases() -> Iterator[Case]:
    """Each time the same, but for the random part of RSA's signatures."""
    yield from layouts()
    yield from names()
    yield from identities()
    yield from bundles()
    yield from claims()
    yield from entries()
    yield from blocks()
    yield from records()
    yield from acks()
    yield from statements()
    yield from harmless()


def layouts() -> Iterator[Case]:
    """What is no proof file, whatever else it is."""
    alice = person("alice")
    parts = ForgedChain().parts()
    data = parts.signed_by(alice)
    yield Case("nothing", b"", 6)
    yield Case("no proof", b"hello\n", 6)
    magic = b"CRP2" + parts.unsigned()[4:]
    signature = alice.keys.chain_signing_key.sign(Label.PROOF_SIG, magic)
    yield Case("another magic of the file", magic + signature, 6)
    yield Case("cut off", data[:-1], 6)
    yield Case("a byte behind the end", data + b"\0", 6)
    yield Case("another version", replace(parts, version=2).signed_by(alice), 6)
    at = len(replace(parts, rows=()).unsigned()) - 12
    yield Case("a count of 4 billion rows", data[:at] + b"\xff" * 4 + data[at + 4 :], 6)
    body = genesis(alice)
    yield Case("a finding that is no UTF-8", ForgedChain(body=body[:-1] + b"\1\xff").file(), 6)
    yield Case("a byte behind the genesis", ForgedChain(body=body + b"\0").file(), 6)
    yield Case("no row", replace(parts, rows=()).signed_by(alice))
    yield Case("a file that the owner did not sign", parts.signed_by(person("bob")))


def names() -> Iterator[Case]:
    """Of the owner; the ends of each range that 9.2 names."""
    wrong: dict[str, str | bytes] = {
        "no UTF-8": b"\xff",
        "33 characters": b"x" * 33,
        "not NFC": "e\u0301",
        "two words": "two words",
        "of category Cc": "a\x07",
        "of category Cf": "a\u200b",
        "a #": "a#b",
        "a colon": "a:b",
        "a slash at the start": "/a",
        "a hyphen at the start": "-a",
        "of category M at the start": "\u0301a",
    }
    unseen = "34f 115f 1160 17b4 17b5 180b 180d 180f 3164 fe00 fe0f ffa0 e0100 e01ef"
    wrong |= {f"U+{digits.upper():0>4}": f"a{chr(int(digits, 16))}" for digits in unseen.split()}
    for why, nick in wrong.items():
        data = nick if isinstance(nick, bytes) else nick.encode()
        yield Case(f"the owner's name: {why}", ForgedChain().file(data))


def identities() -> Iterator[Case]:
    """Whose key the genesis says it is."""
    alice = person("alice")
    identity, key = alice.keys.identity, alice.keys.chain_signing_key.public
    spki, certified = identity.spki, alice.keys.chain_id + key

    def of(spki: bytes, certificate: bytes) -> bytes:
        return ForgedChain(body=genesis_of(spki, key, certificate)).file()

    yield Case("a certificate that nobody signed", of(spki, bytes(384)))
    another = identity.sign(Label.CHAIN_CERT, certified[:16] + NEUTRAL)
    yield Case("a certificate of another chain key", of(spki, another))
    another = identity.sign(Label.CHAIN_CERT, ANOTHER_TAG + key)
    yield Case("a certificate of another chain_id", of(spki, another))
    short = pss(private(identity), Label.CHAIN_CERT, certified, salt=20)
    yield Case("a certificate with a salt of 20 bytes", of(spki, short))
    right = genesis(alice)[456:840]
    yield Case("an identity key that lacks its last byte", of(spki[:-1], right))
    odd, odd_key = odd_exponent(identity)
    signed = pss(odd_key, Label.CHAIN_CERT, certified)
    yield Case("an identity key with the exponent 65,539, which signed", of(odd, signed))
    # Everybody can sign for a key of small order; the identity has certified it.
    certificate = identity.sign(Label.CHAIN_CERT, alice.keys.chain_id + NEUTRAL)
    parts = ForgedChain(body=genesis_of(spki, NEUTRAL, certificate)).parts()
    accepted = NEUTRAL + bytes(32)
    rows = tuple(row[:150] + accepted for row in parts.rows)
    unsigned = replace(parts, rows=rows).unsigned()
    yield Case("a chain key of order 1, for which all is signed", unsigned + accepted)
    parts = ForgedChain().parts()
    altered = replace(parts, genesis=genesis_of(spki, key, right, b"a finding"))
    yield Case("a genesis that block 0 does not name", altered.signed_by(alice))


def bundles() -> Iterator[Case]:
    bob = person("bob")
    sek = session_keys("anybody", 0).get_public_key()
    wrong = {
        "a bundle that nobody signed": bundle(bob, signature=bytes(384)),
        "a byte behind a bundle": bundle(bob, behind=b"\0"),
        "a bundle of version 2": bundle(bob, version=u8(2)),
        "an empty name in a bundle": bundle(bob, nick=b""),
        "a session's encryption key that is the identity key": bundle(
            bob, sek=bob.keys.identity.spki
        ),
        "a modulus of 383 bytes": bundle(bob, sek=sek[:40] + sek[41:]),
        "an even modulus": bundle(bob, sek=even(sek)),
        "a modulus of 3,071 bits": bundle(bob, sek=low(sek)),
        "an author's identity with the exponent 65,539, which signed": odd_bundle(bob),
        "a session key of order 4": bundle(bob, ssk=bytes(32)),
        "a session key of order 2": bundle(bob, ssk=(P - 1).to_bytes(32, "little")),
        "a chain key of order 8": bundle(bob, csk=ORDER_8),
        "a chain key with y = p": bundle(bob, csk=P.to_bytes(32, "little")),
    }
    for why, raw in wrong.items():
        yield Case(why, ForgedChain(raw).file())
    hi = entry(bob, "hi")
    another_key = bundle(bob, ssk=person("carol").session_key.public)
    chain = ForgedChain(another_key)
    chain.keeps(RECEIVED, hi)
    chain.meets(bundle(bob))
    yield Case("an entry that fits a bundle behind it alone", chain.file())
    chain = ForgedChain()
    index = chain.keeps(RECEIVED, hi, shown=False)
    chain.meets(bundle(bob))
    chain.forgets(index, kept(hi))
    yield Case("a bundle between an erased entry and what is left of it", chain.file())
    alice = person("alice")
    theirs = {"session": alice.session_id, "ssk": alice.session_key.public}
    for why, raw in {
        "a session_id that is not of its person": bundle(bob, **theirs),
        "a session_id that is not of its key": bundle(bob, session=alice.session_id),
    }.items():
        yield Case(why, ForgedChain(bundle(alice), raw).file())


def claims() -> Iterator[Case]:
    """Bundles of one session that say different things."""
    bob, carol = person("bob"), person("carol")
    hi = entry(bob, "hi")
    for name, value in {
        "tag": ANOTHER_TAG,
        "csk": carol.keys.chain_signing_key.public,
        "chain_id": ANOTHER_TAG,
    }.items():
        chain = ForgedChain(bundle(bob), bundle(bob, **{name: value}))
        chain.keeps(RECEIVED, hi)
        yield Case(f"two bundles of one session that differ in {name}", chain.file(), 0)
    chain = ForgedChain()
    said = chain.says(1)
    chain.states(bundle(bob), chain.ack(bob, chain.report(said[0], 1)))
    chain.meets(bundle(bob, chain_id=ANOTHER_TAG))
    yield Case("a statement whose bundle differs from a record's", chain.file(), 0)


def entries() -> Iterator[Case]:
    bob = person("bob")

    def heard(record: bytes) -> bytes:
        chain = ForgedChain(bundle(bob))
        chain.keeps(RECEIVED, record)
        return chain.file()

    whole = entry(bob, "hi")
    older = of_version_2(bob)
    large = int.from_bytes(whole[-32:], "little") + ORDER
    some = [bytes([digit]) * 16 for digit in (1, 2)]
    many = b"".join(number.to_bytes(16, "big") for number in range(2049))
    yield Case("an entry of version 2", heard(older))
    yield Case("an entry of seq 0", heard(entry(bob, "hi", 0)))
    yield Case("an empty text", heard(entry(bob, "")))
    yield Case("a text that is no UTF-8", heard(entry(bob, b"\xff")))
    yield Case("a text of 16,385 bytes", heard(entry(bob, "x" * 16385)))
    yield Case("a byte behind an entry", heard(whole + b"\0"))
    yield Case("a signature with S ≥ L", heard(whole[:-32] + large.to_bytes(32, "little")))
    uneven = some[0] + b"\2"
    yield Case("an audience of 17 bytes", heard(entry(bob, uneven, kind=AUDIENCE)))
    yield Case("an audience that falls", heard(entry(bob, some[1] + some[0], kind=AUDIENCE)))
    yield Case("an audience with one twice", heard(entry(bob, some[0] * 2, kind=AUDIENCE)))
    yield Case("an audience of 2,049", heard(entry(bob, many, kind=AUDIENCE)))


def blocks() -> Iterator[Case]:
    alice = person("alice")

    def with_block(kind: int, **other: Any) -> bytes:
        chain = ForgedChain()
        chain.add(kind, b"an entry's id".ljust(32), **other)
        return chain.file()

    yield Case("a block of type 0", with_block(0))
    yield Case("a block of type 7", with_block(7))
    yield Case("a second genesis", with_block(GENESIS))
    yield Case("a first block that is no genesis", ForgedChain(first=EVENT).file())
    yield Case("another magic", with_block(EVENT, magic=b"CRB2"))
    place = alice.keys.chain_id + u64(1)  # what is right there
    yield Case("another chain_id", with_block(EVENT, chain_id=ANOTHER_TAG, place=place))
    yield Case("an index that is left out", with_block(EVENT, index=2))
    yield Case("another index than the signed one", with_block(EVENT, index=2, place=place))
    wrong = {"another chain_id": ANOTHER_TAG + u64(1), "another index": place[:16] + u64(2)}
    for why, signed in wrong.items():
        yield Case(f"a block that is signed for {why}", with_block(EVENT, place=signed))
    yield Case("a block that follows none", with_block(EVENT, previous_hash=ZEROS))
    yield Case("mining of 7 zero bits", with_block(SENT, difficulty=7))
    yield Case("mining that has 8 zero bits and says 9", with_block(SENT, difficulty=9))
    yield Case("mining that has 7 zero bits and says 8", with_block(SENT, mined=7))
    chain = ForgedChain()
    chain.add(EVENT)
    parts = chain.parts()
    unsigned = (parts.rows[0][:150] + bytes(64), parts.rows[1])
    yield Case("an old row that is not signed", replace(parts, rows=unsigned).signed_by(alice))
    for kind, of in ((SENT, "a sent"), (CONTROL, "a control")):
        for before in (kind, RECEIVED):
            chain = ForgedChain()
            for its_type in (before, kind):
                chain.add(its_type, b"an entry's id".ljust(32))
            told = "itself" if before == kind else "a received one"
            yield Case(f"{of} block that repeats {told}", chain.file())


def records() -> Iterator[Case]:
    alice, bob = person("alice"), person("bob")
    hi = entry(bob, "hi")

    def with_event(record: bytes, named: bytes) -> bytes:
        chain = ForgedChain()
        chain.add(EVENT, H(Label.EVENT, named), record)
        return chain.file()

    def own(kind: int, record: bytes, raw: bytes) -> bytes:
        chain = ForgedChain(raw)
        chain.keeps(kind, record)
        return chain.file()

    yield Case("an event that its block does not name", with_event(event(9, b""), event(9, b"x")))
    yield Case("an event without its kind", with_event(SALT, SALT))
    for why, disclosed in {
        "a record of the genesis": ((0, b""),),
        "a record of no block": ((2, b""),),
        "a record twice": ((1, b""), (1, b"")),
        "records that fall": ((2, b""), (1, b"")),
    }.items():
        chain = ForgedChain()
        for _ in range(1 + (why == "records that fall")):
            chain.add(FORGET)
        yield Case(why, replace(chain.parts(), records=disclosed).signed_by(alice))
    yield Case("an entry without its author's bundle", own(RECEIVED, hi, bundle(alice)))
    chain = ForgedChain(bundle(bob))
    chain.records[chain.keeps(RECEIVED, hi)] = entry(bob, "ho")
    yield Case("another entry of its author's", chain.file())
    audience = entry(alice, SALT, kind=AUDIENCE)
    yield Case("an audience in a sent block", own(SENT, audience, bundle(alice)))
    yield Case("a message in a control block", own(CONTROL, entry(alice, "hi"), bundle(alice)))
    # Whose an own message has to be: identity, chain key and chain_id, each alone.
    of_alice = {"csk": alice.keys.chain_signing_key.public, "chain_id": alice.keys.chain_id}
    yield Case("the owner's, by somebody else", own(SENT, hi, bundle(bob, **of_alice)))
    key = person("carol").keys.chain_signing_key.public
    said = entry(alice, "hi")
    yield Case("the owner's, with another chain key", own(SENT, said, bundle(alice, csk=key)))
    elsewhere = bundle(alice, chain_id=ANOTHER_TAG)
    yield Case("the owner's, of another chain", own(SENT, said, elsewhere))

    def forgotten(record: bytes, left: bytes) -> bytes:
        chain = ForgedChain(bundle(bob))
        chain.forgets(chain.keeps(RECEIVED, record, shown=False), left)
        return chain.file()

    yield Case("a byte behind what is left of an erased entry", forgotten(hi, kept(hi) + b"\0"))
    unsigned = hi[:146] + bytes(64)
    yield Case("what is left of an erased entry is not signed", forgotten(hi, unsigned))
    for why, record in {"seq 0": entry(bob, "hi", 0), "version 2": of_version_2(bob)}.items():
        yield Case(f"what is left of an entry of {why}", forgotten(record, kept(record)))
    chain = ForgedChain(bundle(bob))
    chain.forgets(3, kept(hi))
    chain.keeps(RECEIVED, hi, shown=False)
    yield Case("what is left of a later entry", chain.file())
    chain = ForgedChain(bundle(bob))
    chain.forgets(9, kept(hi))
    yield Case("what is left of an entry of no block", chain.file())
    chain = ForgedChain(bundle(alice))
    chain.forgets(chain.add(EVENT, entry_id(audience)), kept(audience))
    yield Case("what is left of an entry in an event's block", chain.file())
    chain = ForgedChain()
    chain.forgets(chain.keeps(RECEIVED, hi, shown=False), kept(hi))
    chain.meets(bundle(bob))
    yield Case("the bundle comes behind what is left of the entry", chain.file())
    chain = ForgedChain(bundle(bob))
    chain.forgets(chain.keeps(SENT, hi, shown=False), kept(hi))
    yield Case("what is left of the owner's entry, by somebody else", chain.file())


def acks() -> Iterator[Case]:
    alice, bob, carol = person("alice"), person("bob"), person("carol")
    chain = ForgedChain(bundle(alice))
    said = entry(alice, "hi", 3)
    chain.keeps(SENT, said)

    def stating(payload: bytes, raw: bytes = b"") -> bytes:
        parts = chain.parts()
        return replace(parts, statements=((raw or bundle(bob), payload),)).signed_by(alice)

    def acking(*feeds: FeedReport, **other: Any) -> bytes:
        return stating(chain.ack(bob, *feeds, **other))

    last = chain.report(said, 3)
    others = FeedReport(bob.session_id, 99, b"an entry of his own".ljust(32))
    yield Case("a feed of seq 0", acking(last, replace(others, seq=0)))
    yield Case("a missing seq 0", acking(replace(last, missing=(0,))))
    yield Case("a missing seq that is the highest", acking(replace(last, missing=(3,))))
    yield Case("missing seqs that fall", acking(last, replace(others, missing=(3, 2))))
    yield Case("a missing seq twice", acking(last, replace(others, missing=(3, 3))))
    too_many = tuple(range(1, 66))
    yield Case("65 missing seqs", acking(last, replace(others, missing=too_many)))
    yield Case("a witnessed index without a hash", acking(replace(last, witnessed_index=1)))
    head = replace(last, witnessed_index=3, witnessed_hash=chain.hashes[2])
    yield Case("a witnessed block that is not there", acking(head))
    head = replace(last, witnessed_index=2, witnessed_hash=chain.hashes[1])
    yield Case("a witnessed block with another hash", acking(head))
    yield Case("an ack of number 0", acking(last, number=0))
    none = Head(bob.keys.chain_id, 7, ZEROS, bytes(64))
    yield Case("an ack whose own head is none", acking(last, head=none))
    yield Case("an ack in another conversation", acking(last, tag=PRIVATE))
    yield Case("an ack of no feed", acking())
    yield Case("an ack of another's feed alone", acking(others))
    unknown = replace(last, entry_id=b"an entry of no block".ljust(32))
    yield Case("an ack of an entry of no block", acking(unknown))
    yield Case("an ack of another seq", acking(replace(last, seq=4)))
    payload = chain.ack(bob, last)
    yield Case("an ack that is not signed", stating(payload[:-64] + bytes(64)))
    twice = ((bundle(bob), payload),) * 2
    yield Case("an ack twice", replace(chain.parts(), statements=twice).signed_by(alice))
    behind = resigned(payload[:-64] + b"\0" + bytes(64), bob, Label.ACK_SIG)
    yield Case("a byte behind an ack, signed", stating(behind))
    sixth = resigned(payload[:1] + b"\6" + payload[2:], bob, Label.ACK_SIG)
    yield Case("a statement of kind 6, else an ack", stating(sixth))
    another = resigned(b"\2" + payload[1:], bob, Label.ACK_SIG)
    yield Case("an ack of version 2", stating(another))
    forged = resigned(chain.ack(carol, last), bob, Label.ACK_SIG)
    yield Case("an ack of another's session, signed by this one's key", stating(forged))
    yield Case("an ack of 65,520 bytes", acking(last, *filling(65520)))
    yield Case("the owner as a witness", stating(chain.ack(alice, last), bundle(alice)))
    # The same identity on another chain, so by another session.
    again = bundle(carol, identity=alice.keys.identity.spki)[:-384]
    again += alice.keys.identity.sign(Label.BUNDLE_SIG, again)
    ack = chain.ack(carol, last)
    yield Case("the owner as a witness, from another chain of his", stating(ack, again))
    chain = ForgedChain(bundle(alice))
    hi = entry(alice, "hi")
    chain.keeps(RECEIVED, hi)
    yield Case("an ack of a received block", acking(chain.report(hi, 1)))
    chain = ForgedChain(bundle(alice))
    chain.add(FORGET, entry_id(hi))
    yield Case("an ack of a block that records no entry", acking(chain.report(hi, 1)))
    # What is left of an erased one binds an ack as well.
    chain = ForgedChain(bundle(alice))
    chain.forgets(chain.keeps(SENT, hi, shown=False), kept(hi))
    yield Case("an ack that gives an erased message another seq", acking(chain.report(hi, 2)))


def filling(size: int) -> Iterator[FeedReport]:
    """Feeds of others for an ack of that many bytes, one feed of 98 bytes in it already."""
    count, left = divmod(size - 256 - 98, 98)
    while left % 8 or left // 8 > 64 * count:
        count, left = count - 1, left + 98
    for number in range(count):
        missing = tuple(range(1, 1 + min(64, left // 8)))
        left -= 8 * len(missing)
        yield FeedReport(number.to_bytes(16, "big"), 99, ZEROS, missing)


def statements() -> Iterator[Case]:
    alice, bob = person("alice"), person("bob")
    chain = ForgedChain()
    chain.says(1)

    def stating(payload: bytes, raw: bytes = b"") -> bytes:
        statement = (raw or bundle(bob), payload)
        return replace(chain.parts(), statements=(statement,)).signed_by(alice)

    elsewhere = chain.head(2, chain_id=ANOTHER_TAG)
    yield Case("a head of another chain", stating(chain.witness(bob, elsewhere)))
    yield Case("a head of zeros", stating(chain.witness(bob, chain.head(2, hash=ZEROS))))
    changed = chain.head(2, hash=b"of another block".ljust(32))
    yield Case(
        "a head of another block, which the owner signed", stating(chain.witness(bob, changed))
    )
    later = chain.head(2, index=3)
    yield Case("a head of a block that is not there", stating(chain.witness(bob, later)))
    head = chain.head(2)
    signed = head.chain_id + u64(head.index) + head.hash
    key = bob.keys.chain_signing_key
    posed = replace(head, signature=key.sign(Label.BLOCK_SIG, signed))
    yield Case("a head that the owner did not sign", stating(chain.witness(bob, posed)))
    payload = chain.witness(bob, head)
    yield Case("a witness that is not signed", stating(payload[:-64] + bytes(64)))
    behind = resigned(payload[:-64] + b"\0" + bytes(64), bob, Label.WITNESS_SIG)
    yield Case("a byte behind a witness, signed", stating(behind))
    sixth = resigned(payload[:1] + b"\6" + payload[2:], bob, Label.WITNESS_SIG)
    yield Case("a statement of kind 6, else a witness", stating(sixth))
    session = (bob.session_key, bob.session_id)
    asked = KeyRequest.create(*session, LOBBY.tag, 1, alice.session_id)
    yield Case("a statement that is a key request", stating(asked.serialize()))
    two = sorted((chain.witness(bob, chain.head(index)) for index in (1, 2)), reverse=True)
    falling = tuple((bundle(bob), payload) for payload in two)
    yield Case("statements that fall", replace(chain.parts(), statements=falling).signed_by(alice))


def harmless() -> Iterator[Case]:
    """What looks wrong and is not, and what decides between two ways to count."""
    bob = person("bob")
    chain = ForgedChain(bundle(bob))
    chain.happens(2, b"not a fingerprint")
    chain.happens(9, b"")
    chain.keeps(RECEIVED, entry(bob, b"\xff", kind=3))
    yield Case("events and entries of kinds that say nothing here", chain.file(), 0)
    sek = session_keys("anybody", 0).get_public_key()
    least = sek[:33] + b"\x80" + bytes(382) + b"\1" + sek[-5:]  # a modulus of 2^3071 + 1
    chain = ForgedChain(bundle(bob), bundle(bob, nick=b"bobby", number=u32(2), sek=least))
    chain.keeps(RECEIVED, entry(bob, "hi"))
    yield Case("another name within a session: the last before it counts", chain.file(), 0)
    chain = ForgedChain()
    said = chain.says(2)
    chain.states(bundle(bob), chain.witness(bob, chain.head(2)))
    highest = chain.report(said[1], 2, witnessed_index=3, witnessed_hash=chain.hashes[3])
    chain.states(bundle(bob, nick=b"second"), chain.ack(bob, highest))
    chain.states(bundle(bob, nick=b"third"), chain.witness(bob, chain.head(3)))
    yield Case("a witness of three names: the first with the highest head", chain.file(), 0)
    yield from counts()
    hi = entry(bob, "h")
    yield from repeated()
    yield from forks()
    chain = ForgedChain(bundle(bob))
    index = chain.keeps(RECEIVED, hi, shown=False)
    chain.add(EVENT, refers_to=index)
    audience = chain.add(CONTROL, b"an audience".ljust(32))
    for refers_to in (1, audience, audience + 3, 99):
        chain.add(FORGET, refers_to=refers_to)
    chain.forgets(99, b"")
    yield Case("nothing is erased by forget blocks of what cannot be", chain.file(), 0)
    chain = ForgedChain(bundle(bob))
    chain.keeps(RECEIVED, entry(bob, "x" * 16384))
    chain.keeps(RECEIVED, hi)
    chain.keeps(RECEIVED, entry(bob, b"", 2, kind=AUDIENCE))
    yield Case("the longest and the shortest text, and an empty audience", chain.file(), 0)
    longest = ("é/-你\u0300" + "x" * 27).encode()
    yield Case("a name with all that is allowed", ForgedChain().file(longest), 0)


def repeated() -> Iterator[Case]:
    """An entry that was received again: where it stands first it counts."""
    alice, bob = person("alice"), person("bob")
    first = entry(bob, "hi")
    second = entry(bob, "ho", 2, previous=entry_id(first))

    def twice(*shown: bool) -> ForgedChain:
        chain = ForgedChain(bundle(bob))
        chain.keeps(RECEIVED, first, shown=shown[0])
        chain.keeps(RECEIVED, second)
        chain.keeps(RECEIVED, first, shown=shown[1])
        return chain

    yield Case("a message that was received twice", twice(True, True).file(), 0)
    yield Case("one received twice, of which the second is disclosed", twice(False, True).file(), 0)
    chain = twice(True, True)
    chain.records[4] = second
    yield Case("one received twice, with another record the second time", chain.file())
    for which, (index, record) in enumerate([(2, kept(first)), (4, kept(first)), (4, b"")], 1):
        chain = twice(index == 4, index == 2)
        chain.forgets(index, record)
        yield Case(f"one received twice and erased once ({which} of 3)", chain.file(), 0)
    chain = ForgedChain(bundle(alice))
    said = entry(alice, "hi")
    chain.keeps(SENT, said)
    chain.keeps(RECEIVED, said)
    chain.states(bundle(bob), chain.ack(bob, chain.report(said, 1)))
    yield Case("a message of the owner's that he received as well", chain.file(), 0)


def forks() -> Iterator[Case]:
    """Two stories: the head of one in an event, beside the entry of the other."""
    bob, carol = person("bob"), person("carol")
    hi = entry(bob, "hi")
    ho = entry(bob, "ho", 2, previous=entry_id(hi))

    def beside(other: bytes, *shown: bytes, hidden: tuple[bytes, ...] = ()) -> bytes:
        chain = ForgedChain(bundle(bob))
        for record in (*shown, *hidden):
            chain.keeps(RECEIVED, record, shown=record in shown)
        chain.happens(8, kept(other))
        return chain.file()

    another = entry(bob, "another", 2)
    yield Case("a story in the place of another", beside(entry(bob, "no"), hi), 0)
    yield Case("a story that names another one before it", beside(another, hi), 0)
    yield Case("a story behind which another was named", beside(entry(bob, "no"), ho), 0)
    yield Case("a story with what fits before it", beside(ho, hi), 0)
    yield Case("a story far from all that is disclosed", beside(entry(bob, "no", 9), hi, ho), 0)
    yield Case("two stories of which one is a hash", beside(entry(bob, "no"), hidden=(hi,)), 0)
    yield Case("a story in another conversation", beside(entry(bob, "no", tag=PRIVATE), hi), 0)
    chain = ForgedChain(bundle(bob))
    chain.keeps(RECEIVED, hi)
    chain.forgets(2, kept(hi))
    chain.happens(8, kept(entry(bob, "no")))
    del chain.records[2]
    yield Case("a story in the place of one that is erased", chain.file(), 0)
    no = kept(entry(bob, "no"))
    for why, body in {
        "that its author did not sign": no[:-64] + kept(hi)[-64:],
        "that is cut": no[:-1],
        "with a byte behind it": no + b"\0",
        "with its text": entry(bob, "no"),
        "of version 2": kept(of_version_2(bob)),
        "of seq 0": kept(entry(bob, "no", 0)),
        "of nobody": kept(entry(carol, "no")),
    }.items():
        chain = ForgedChain(bundle(bob))
        chain.keeps(RECEIVED, hi)
        chain.happens(8, body)
        yield Case(f"a story {why}", chain.file())


def counts() -> Iterator[Case]:
    """How many of the owner's messages a witness signed for."""
    alice, bob, carol = person("alice"), person("bob"), person("carol")
    chain = ForgedChain(bundle(alice))
    first = entry(alice, SALT, kind=AUDIENCE)
    second = entry(alice, SALT[::-1], 2, kind=AUDIENCE, previous=entry_id(first))
    for kind, record in ((CONTROL, first), (SENT, entry(alice, "fork")), (CONTROL, second)):
        chain.keeps(kind, record)
    chain.states(bundle(bob), chain.ack(bob, chain.report(second, 2, missing=(1,))))
    yield Case("an ack of an audience, which leads to no message", chain.file(), 0)
    chain = ForgedChain()
    said = chain.says(3)
    del chain.records[3]
    chain.states(bundle(bob), chain.ack(bob, chain.report(said[2], 3, missing=(1,))))
    yield Case("an ack with a message between that is not disclosed", chain.file(), 0)
    chain = ForgedChain(bundle(alice))
    first = entry(alice, SALT, kind=AUDIENCE)
    second = entry(alice, "one", 2, previous=entry_id(first))
    gap = entry(alice, "two", 4, previous=entry_id(second))
    last = entry(alice, "three", 5, previous=entry_id(gap))
    chain.keeps(CONTROL, first)
    for record in (second, gap, last):
        chain.keeps(SENT, record)
    others = FeedReport(bob.session_id, 65, b"an entry of his own".ljust(32), tuple(range(1, 65)))
    ack = chain.ack(bob, chain.report(second, 2, missing=(1,)), others)
    chain.states(bundle(bob), ack)
    chain.states(bundle(carol), chain.ack(carol, chain.report(last, 5, missing=(4,))))
    yield Case("links with a gap; what is missing makes no difference", chain.file(), 0)
