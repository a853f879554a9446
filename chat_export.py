"""A checked history as a file for people and programs: text, JSON Lines, one page of HTML.

What lives here: how a `chat_report.Report` looks.  What it does not know: chains, proofs, keys,
files.  Whatever is shown comes from a report, so what is exported is what was checked.

    page = as_html(check_proof(make_proof(chain, nick="alice")))

The rules of all three (docs/EXPORT.md):

- Times are UTC.  A message's own time is its author's claim, the time of its block the owner's.
- Who is who is a name with the beginning of a fingerprint, long enough to differ from everybody
  else in the file; and the whole fingerprint at least once.
- Text and HTML show what could mislead an eye (controls, bidi overrides) spelled out, as the
  terminal does; JSON Lines have the exact text.
- None of them is a proof: anybody can edit a file.  Each says so, and names the head to compare.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from chat_report import Message, Report, Who, Witness, counted, grouped
from chat_terminal import escape, escape_name

__all__ = ["JSONL_VERSION", "as_html", "as_jsonl", "as_text"]

JSONL_VERSION = 1  # rises when a key changes its meaning or goes; new keys may come without that
_NAMED_WITNESSES = 3  # at each message; a classroom's thirty would hide what was said
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --------------------------------------------------------------------------- what all three share


class _Names:
    """What everybody in a report is called: nick#tag, no two people the same."""

    def __init__(self, report: Report) -> None:
        self._tags = {who: name.removeprefix(who.nick) for who, name in report.names.items()}

    def of(self, who: Who) -> str:
        """`alice#2832`, escaped."""
        return escape_name(who.nick) + self._tags[who]

    def html(self, who: Who) -> str:
        """The same for a page; isolated, so that a right-to-left name turns nothing around it."""
        nick = html.escape(escape_name(who.nick))
        return f'<bdi class="who">{nick}<span class="tag">{self._tags[who]}</span></bdi>'


def _time(ms: int) -> datetime | None:
    """None: no time that a calendar has; it comes from somebody else's clock, as any u64."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return None


def _minute(ms: int) -> str:
    when = _time(ms)
    return f"{when:%Y-%m-%d %H:%M}" if when else "(impossible time)"


def _listed(people: Sequence[Who], call: Callable[[Who], str]) -> str:
    """`a, b and 3 others`."""
    rest = len(people) - _NAMED_WITNESSES
    if rest > 1:  # "and 1 other" is no shorter than that one's name
        return f"{', '.join(map(call, people[:_NAMED_WITNESSES]))} and {rest} others"
    *most, last = map(call, people)
    return " and ".join(filter(None, [", ".join(most), last]))


def _left_out(report: Report) -> list[str]:
    """Messages that are in the history and not in the file."""
    parts = [f"{report.undisclosed:,} not disclosed"] if report.undisclosed else []
    return parts + ([f"{counted(report.erased, 'text')} erased"] if report.erased else [])


# --------------------------------------------------------------------------- text


def as_text(report: Report) -> str:
    """For reading and grep: `2026-11-25 09:41 alice#2832: hello`, one message a line.

    Further lines of a text are indented by 4, so how a line begins says what it is, as on the
    terminal: `-- ` is said by Chainroom, `!! ` is an alarm, a date begins a message.
    """
    names = _Names(report)
    alarm = [f"!! NOT PROVEN: {escape_name(report.problem)}"] if report.problem else []
    told = [*report.lines(), "the times below are UTC, as each author's clock said", _CAUTION]
    lines = [*alarm, *(f"-- {escape_name(line)}" for line in told), ""]
    lines += [_text_line(message, names) for message in report.messages]
    counts = [counted(len(report.messages), "message"), *_left_out(report)]
    return "\n".join([*lines, "", f"-- end: {', '.join(counts)}", ""])


def _text_line(message: Message, names: _Names) -> str:
    private = " (private)" if message.is_private else ""
    start = f"{_minute(message.sent_ms)} {names.of(message.author)}{private}: "
    if message.text is None:
        return f"-- {start}text erased by the owner, its hash is in block {message.index}"
    return start + escape(message.text)


_CAUTION = (
    "this file is no proof itself, anybody can edit it: `chainroom verify FILE` must show the same "
    "words from the owner's proof file"
)


# --------------------------------------------------------------------------- JSON Lines


def as_jsonl(report: Report) -> str:
    """For programs: one JSON object a line, in ASCII, so that no text can break a line.

    First `{"type": "history", "version": 1, …}`, then a `message` for each, in the chain's order,
    last a `summary`; without that one the file was cut.  A person is `{"name", "nick",
    "fingerprint"}`, a message's witnesses are names, bytes are hexadecimal, times are milliseconds
    since 1970 (any u64: a peer's clock said so), and the text of an erased message is null.  All
    keys: docs/EXPORT.md.
    """
    names = _Names(report)
    first = {
        "type": "history",
        "version": JSONL_VERSION,
        "owner": _person(report.owner, names),
        "chain_id": report.chain_id.hex(),
        "blocks": report.blocks,
        "head_hash": report.head_hash.hex(),
        "head_signed": report.head_signed,
        "started_ms": report.started_ms,
        "ended_ms": report.ended_ms,
        "finding": report.finding,
        "predecessor": _predecessor(report),
        "exit_code": report.exit_code,
        "problem": report.problem,
    }
    messages = [
        {
            "type": "message",
            "index": message.index,
            "author": _person(message.author, names),
            "text": message.text,
            "sent_ms": message.sent_ms,
            "appended_ms": message.appended_ms,
            "own": message.is_own,
            "private": message.is_private,
            "session_id": message.session_id.hex(),
            "seq": message.seq,
            "tag": message.tag.hex(),
            "witnesses": [names.of(who) for who in message.witnesses],
        }
        for message in report.messages
    ]
    last = {
        "type": "summary",
        "messages": len(report.messages),
        "undisclosed": report.undisclosed,
        "erased": report.erased,
        "unseen": report.unseen,
        "late": report.late,
        "forks": [_person(who, names) for who in report.forks],
        "witnesses": [
            {
                "who": _person(witness.who, names),
                "index": witness.index,
                "entries": witness.entries,
            }
            for witness in report.witnesses
        ],
        "lines": report.lines(),
    }
    return "".join(json.dumps(line) + "\n" for line in (first, *messages, last))


def _predecessor(report: Report) -> dict[str, str | int] | None:
    if report.predecessor is None:
        return None
    chain_id, index, digest = report.predecessor
    return {"chain_id": chain_id.hex(), "index": index, "hash": digest.hex()}


def _person(who: Who, names: _Names) -> dict[str, str]:
    return {"name": names.of(who), "nick": who.nick, "fingerprint": who.fingerprint.hex()}


# --------------------------------------------------------------------------- HTML


def as_html(report: Report) -> str:
    """For somebody else: one page that a browser shows without anything from anywhere.

    No scripts, links, pictures or fonts; its Content-Security-Policy allows its own style sheet (by
    its hash) and nothing else, so that even an escape that was forgotten here could do nothing.
    """
    names = _Names(report)
    owner = names.of(report.owner) if _is_known(report) else "nobody known"
    return "\n".join(
        [
            *_head(f"{'NOT PROVEN: ' if report.problem else ''}history of {html.escape(owner)}"),
            *_masthead(report, names),
            *(_conversation(report, names) if report.messages or not report.problem else ()),
            *(_people(report, names) if _is_known(report) else ()),
            *_limits(report),
            "</body>",
            "</html>",
            "",
        ]
    )


def _is_known(report: Report) -> bool:
    """Whether there is an owner: a file that could not be read has none."""
    return any(report.owner.fingerprint)


def _shown(text: str) -> str:
    """A text from outside, for between tags; its line breaks stay, `pre-wrap` shows them."""
    return html.escape("\n".join(map(escape, text.split("\n"))))


def _shown_name(text: str) -> str:
    return html.escape(escape_name(text))


def _head(title: str) -> list[str]:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
    ]


def _masthead(report: Report, names: _Names) -> list[str]:
    facts = []
    if _is_known(report):
        facts.append(("Fingerprint", f"<code>{grouped(report.owner.fingerprint, 4)}</code>"))
    if report.blocks:
        started, ended = _minute(report.started_ms), _minute(report.ended_ms)
        shown = [counted(len(report.messages), "message"), *_left_out(report)]
        facts += [
            ("Chain", f"{counted(report.blocks, 'block')}, {started} to {ended} UTC"),
            ("Head", f"<code>{grouped(report.head_hash, 8)}</code>"),
            ("Shown", ", ".join(shown)),
        ]
    return [
        "<header>",
        '<p class="kicker">Chainroom history of</p>',
        f"<h1>{names.html(report.owner) if _is_known(report) else 'nobody known'}</h1>",
        *(_alarm(report) if report.problem else _verdict(report, names)),
        *(["<dl>"] if facts else []),
        *(f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in facts),
        *(["</dl>"] if facts else []),
        "</header>",
    ]


def _alarm(report: Report) -> list[str]:
    return [
        '<section class="verdict bad" role="alert">',
        "<h2>Not proven</h2>",
        f'<p dir="auto"><strong>{_shown(report.problem)}</strong></p>',
        f"<p>{_UNREAD if report.exit_code == 6 else _CONTRADICTED}</p>",
        "</section>",
    ]


def _verdict(report: Report, names: _Names) -> list[str]:
    said = "Each text below carries its author’s signature"
    if not report.messages:
        said = "No text is shown"
    lines = [
        '<section class="verdict good">',
        "<h2>Everything that is signed here fits</h2>",
        f"<p>{said}. {_order(report, names)}.</p>",
        "</section>",
    ]
    if report.forks:
        forks = _listed(report.forks, names.html)
        lines += _note("Two stories", f"Signed two different messages under one number: {forks}.")
    if report.finding:
        title = "What was found wrong with the chain before this one"
        lines += _note(title, _shown(report.finding))
    return lines


def _order(report: Report, names: _Names) -> str:
    """Who vouches for the order, up to where."""
    owner = names.html(report.owner)
    last = report.blocks - 1
    highest = max((witness.index for witness in report.witnesses), default=-1)
    if highest < 0:
        return f"No witness: {owner} alone vouches for the order"
    people = [witness.who for witness in report.witnesses if witness.index >= 0]
    seen = f"The order up to block {highest} of {last} is witnessed by "
    seen += _listed(people, names.html)
    return seen if highest == last else f"{seen}; for what follows, {owner} alone vouches"


def _note(title: str, text: str) -> list[str]:
    return [
        '<section class="verdict note">',
        f"<h2>{title}</h2>",
        f'<p dir="auto">{text}</p>',
        "</section>",
    ]


_UNREAD = "The file could not be checked. That says nothing about the history, good or bad."
_CONTRADICTED = (
    "Something that is signed does not fit the rest, so somebody changed this history. "
    "Do not rely on what is shown below."
)


def _conversation(report: Report, names: _Names) -> list[str]:
    """By the days of the owner's clock, in the chain's order."""
    lines = ["<main>", "<h2>Conversation</h2>"]
    if not report.messages:
        lines.append("<p>No message is shown.</p>")
    elif not report.problem:
        lines.append(f'<p class="legend">{_LEGEND}</p>')
    for day, messages in groupby(report.messages, lambda message: _day(message.appended_ms)):
        lines += [f"<h3>{day}</h3>", "<ol>"]
        for message in messages:
            lines += _article(message, names, day, is_proven=not report.problem)
        lines.append("</ol>")
    return [*lines, "</main>"]


_LEGEND = (
    "Signed: the key of its author signed exactly this text. Witnessed: that person’s key signed "
    "for the owner’s chain up to this block or a later one."
)


def _day(ms: int) -> str:
    when = _time(ms)
    return f"{when:%A}, {when.day} {when:%B %Y}" if when else "An impossible time"


def _article(message: Message, names: _Names, day: str, *, is_proven: bool) -> list[str]:
    when = _time(message.sent_ms)
    clock = "no time"
    if when:
        clock = f"{when:%H:%M}"
        if _day(message.sent_ms) != day:  # it came late, or a clock is wrong
            clock = f"{when.day} {when:%b %Y} {clock}"
        clock = f'<time datetime="{when:%Y-%m-%dT%H:%M:%SZ}">{clock}</time>'
    if message.text is None:
        text = '<p class="erased">The owner erased this text.</p>'
    else:
        text = f'<div class="text" dir="auto">{_shown(message.text)}</div>'
    own = ' class="own"' if message.is_own else ""
    private = ' <span class="label">private</span>' if message.is_private else ""
    return [
        f'<li id="block-{message.index}"{own}>',
        f'<p class="by">{clock} {names.html(message.author)}{private}</p>',
        text,
        f'<p class="mark">{" · ".join(_marks(message, names, is_proven=is_proven))}</p>',
        "</li>",
    ]


def _marks(message: Message, names: _Names, *, is_proven: bool) -> Iterator[str]:
    """The proof state of one message, in words."""
    yield f"block {message.index}"
    if not is_proven:
        yield '<span class="bad">not proven</span>'
        return
    what = "signed by" if message.text is not None else "its hash signed by"
    yield f'<span class="good">{what} {names.html(message.author)}</span>'
    if message.witnesses:
        yield f"witnessed by {_listed(message.witnesses, names.html)}"
    else:
        yield "no witness"


def _people(report: Report, names: _Names) -> list[str]:
    """Everybody with the whole fingerprint: the owner first, then as they are called."""
    wrote = Counter(message.author.fingerprint for message in report.messages)
    witnesses = {witness.who.fingerprint: witness for witness in report.witnesses}
    everybody = {m.author for m in report.messages} | {w.who for w in report.witnesses}
    called: dict[bytes, list[Who]] = {report.owner.fingerprint: [report.owner]}
    for who in sorted(everybody - {report.owner}, key=names.of):
        called.setdefault(who.fingerprint, []).append(who)
    lines = ['<section class="people">', "<h2>People and witnesses</h2>", "<ul>"]
    for fingerprint, nicks in called.items():
        roles = ["owner of this history"] if fingerprint == report.owner.fingerprint else []
        if wrote[fingerprint]:
            roles.append(f"{counted(wrote[fingerprint], 'message')} shown")
        if fingerprint in witnesses:
            roles.append(_witnessed(witnesses[fingerprint]))
        lines += [
            "<li>",
            f"<p>{', also '.join(names.html(who) for who in nicks)}</p>",
            f"<code>{grouped(fingerprint, 4)}</code>",
            f'<p class="roles">{" · ".join(roles)}</p>',
            "</li>",
        ]
    return [*lines, "</ul>", "</section>"]


def _witnessed(witness: Witness) -> str:
    signed = []
    if witness.index >= 0:
        signed.append(f"for the owner’s chain up to block {witness.index}")
    if witness.entries or not signed:
        signed.append(f"for {counted(witness.entries, 'message')} of the owner")
    return f"signed {' and '.join(signed)}"


def _limits(report: Report) -> list[str]:
    return [
        '<section class="limits">',
        "<h2>What this proves, and what it does not</h2>",
        "<ul>",
        *(_told(line) for line in report.lines()),
        "</ul>",
        f"<p>{_PICTURE}</p>",
        "</section>",
    ]


def _told(line: str) -> str:
    """An indented line belongs to the one before; `proven:` and its like stand out."""
    part = ' class="part"' if line.startswith(" ") else ""
    shown = re.sub("^((not |never )?proven:)", r"<strong>\1</strong>", _shown_name(line.strip()))
    return f'<li{part} dir="auto">{shown}</li>'


_PICTURE = (
    "This page is a picture, and anybody can edit a picture. Ask its owner for the proof file: on "
    "any computer, without a network, <code>chainroom verify FILE</code> must name the same owner, "
    "fingerprint and head as this page, and show the same words. Compare the fingerprint with one "
    "that you have from elsewhere. Times are UTC: beside a message as its author’s clock had it, "
    "the days as the owner’s."
)

_STYLE = """
:root {
  --paper: #fbfaf6; --ink: #1c2126; --soft: #5a626b; --line: #dcd7cb; --own: #2b5c8a;
  --good: #1c6840; --good-paper: #eaf3ec; --bad: #9c1c14; --bad-paper: #fbe8e5;
  --note: #6d4b00; --note-paper: #fbf1d8;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --ink: #e7e4dc; --soft: #9fa7ae; --line: #33393f; --own: #8bbbe6;
    --good: #84d2a4; --good-paper: #17291f; --bad: #ff9c92; --bad-paper: #3b1815;
    --note: #ecc46b; --note-paper: #2f2610;
  }
}
* { box-sizing: border-box; margin: 0; }
body {
  max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1, h2, h3 { font-family: Charter, Georgia, "Liberation Serif", serif; line-height: 1.2; }
h1 { font-size: 2.5rem; font-weight: 600; margin-bottom: 1.5rem; }
h2 { font-size: 1.35rem; font-weight: 600; }
h3 {
  position: sticky; top: 0; z-index: 1; margin: 1.75rem 0 .5rem; padding: .4rem 0;
  background: var(--paper); border-bottom: 1px solid var(--line);
  font-size: 1rem; font-weight: 600; font-style: italic;
}
code { font: .875rem/1.6 ui-monospace, "SF Mono", Consolas, "Liberation Mono", monospace; }
dd code, li code { display: block; max-width: 40ch; }
ol, ul { list-style: none; padding: 0; }
.kicker { color: var(--soft); letter-spacing: .04em; }
.tag { color: var(--soft); font-weight: 400; }
.verdict { margin: 0 0 1rem; padding: .9rem 1.1rem; border-left: .3rem solid; }
.verdict h2 { font-size: 1.15rem; margin-bottom: .25rem; }
.verdict p { color: var(--ink); }
.verdict p + p { margin-top: .4rem; }
.verdict.good { color: var(--good); background: var(--good-paper); }
.verdict.bad { color: var(--bad); background: var(--bad-paper); }
.verdict.note { color: var(--note); background: var(--note-paper); }
dl { margin-top: 1.5rem; border-top: 1px solid var(--line); }
dl div {
  display: grid; grid-template-columns: 7rem 1fr; gap: 0 1rem;
  padding: .4rem 0; border-bottom: 1px solid var(--line);
}
dt { color: var(--soft); }
main { margin-top: 3rem; }
main li { padding: .55rem 0 .55rem 5.25rem; border-left: 0 solid; }
.by { position: relative; font-weight: 600; }
.by time { position: absolute; left: -5.25rem; width: 4.5rem; }
.by time { color: var(--soft); font-weight: 400; }
.own .who { color: var(--own); }
.mark .who, .verdict .who { color: inherit; }
.text { white-space: pre-wrap; tab-size: 4; }
.erased { color: var(--soft); font-style: italic; }
.label {
  padding: 0 .4rem; border: 1px solid; border-radius: .2rem;
  color: var(--soft); font-size: .75rem; font-weight: 400;
}
.mark { color: var(--soft); font-size: .8125rem; }
.mark .good { color: var(--good); }
.mark .good::before { content: "✓ "; }
.mark .bad { color: var(--bad); font-weight: 600; }
.mark .tag { color: inherit; }
.legend { margin-top: .25rem; color: var(--soft); font-size: .875rem; }
.people, .limits { margin-top: 3rem; }
.people li, .limits li { padding: .6rem 0; border-top: 1px solid var(--line); }
.people .who { font-weight: 600; }
.roles { color: var(--soft); font-size: .875rem; }
.people ul, .limits ul { margin-top: .75rem; border-bottom: 1px solid var(--line); }
.limits { font-size: .9375rem; }
.limits .part { padding: 0 0 .5rem 1.5rem; border: 0; color: var(--soft); font-size: .875rem; }
.limits p { margin-top: 1rem; }
@media (max-width: 34rem) {
  body { padding-top: 1.25rem; }
  h1 { font-size: 2rem; }
  code { font-size: .75rem; }
  dl div { grid-template-columns: 1fr; }
  main li { padding-left: 0; }
  .by time { position: static; margin-right: .4rem; }
}
/* What is not in sight is not laid out: 100,000 messages open in 4 s instead of 55. */
@media screen { main ol, main li { content-visibility: auto; contain-intrinsic-size: auto 5rem; } }
@media print {
  :root { --paper: #fff; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  h1, h2, h3, .by { break-after: avoid; }
  h3 { position: static; }
  main li, .people li, .limits li, .verdict, dl div { break-inside: avoid; }
  .verdict { border: 1px solid; border-left-width: .3rem; }
}
@page { margin: 18mm 16mm; @bottom-right { content: counter(page) " / " counter(pages); } }
"""
