#!/bin/sh
# Gets Debian's jq for the test of the session in docs/JSON.md, where that needs no question; without
# it that test is skipped.  Never fails: a machine without it can still run everything else.
command -v jq >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends jq >/dev/null 2>&1 && exit 0
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends jq; } \
        >/dev/null 2>&1 && exit 0
fi
echo 'No jq: the test of the session in docs/JSON.md will be skipped' \
    '(on Debian: apt install jq)' >&2
exit 0
