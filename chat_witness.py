"""Heads of chains: those that others signed and we keep, and what others hold of ours.

What lives here: the side tables of heads and acks, `verify_head`, and `Heads`.  What it does not
know: when anything is sent (`chat_acks`, `chat_session`), what is on our own chain
(`blockchain`), frames, clocks.

    heads = Heads(chain.side(HEADS_TABLE))
    verify_head(ack.head, bundle)
    if heads.take(bundle.fingerprint, ack.head, now_ms) is Taken.CONFLICT: ...

Specified in docs/PROTOCOL.md 4.10.
"""

from __future__ import annotations

from blockchain import Head
from chat_messages import Bundle
from chat_wire import Label, u64
from crypto_utils import BadSignature, VerifyKey

__all__ = ["ACKS_TABLE", "HEADS_TABLE", "verify_ack_head", "verify_head"]

# Side tables; a row with an empty value is one that may be forgotten.
# fingerprint ‖ chain_id → index u64 ‖ hash[32] ‖ CSK signature[64] ‖ when it was kept, ms u64
HEADS_TABLE = "heads"
# our session_id ‖ tag ‖ acker's session_id → its bundle (u16 length) ‖ its newest ack of ours
ACKS_TABLE = "acks"


def verify_head(head: Head, chain_key: VerifyKey) -> None:
    """Raises BadSignature unless this CSK signed that head, for that chain."""
    signed = head.chain_id + u64(head.index) + head.hash
    chain_key.verify(head.signature, Label.BLOCK_SIG, signed)


def verify_ack_head(head: Head, bundle: Bundle) -> None:
    """Raises BadSignature unless that head is of the chain that the bundle names."""
    if head.chain_id != bundle.chain_id:
        raise BadSignature("a head of another chain than the bundle's")
    verify_head(head, bundle.chain_key)
