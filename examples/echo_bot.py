"""Answers what is said to it alone, and what names it: python examples/echo_bot.py --server IP

Needs nothing but Python and Chainroom's folder; all flags go to the client.  See docs/JSON.md.
"""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

HEARD = "I heard: "  # what begins so is not answered, or two such bots would never end

client = str(Path(__file__).resolve().parent.parent / "chat_client.py")
command = [sys.executable, client, "--name", "echo", *sys.argv[1:], "--json"]
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
with suppress(KeyboardInterrupt), subprocess.Popen(command, **pipes) as chat:  # noqa: S603 - ours
    for line in chat.stdout:
        event = json.loads(line)
        if event["type"] == "message" and event["mention"] and not event["text"].startswith(HEARD):
            answer = {"type": "say", "text": HEARD + event["text"]}
            if event["private"]:
                answer |= {"type": "msg", "to": event["from"]}
            print(json.dumps(answer), file=chat.stdin, flush=True)
        elif event["kind"] in ("alert", "error"):
            print(event["text"], file=sys.stderr)
sys.exit(chat.wait())
