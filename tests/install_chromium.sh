#!/bin/sh
# Gets Debian's Chromium for the test of the exported page, where that needs no question; without it
# that test is skipped.  Never fails: a machine without it can still run everything else.
for name in chromium chromium-browser google-chrome chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 && exit 0
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
        >/dev/null 2>&1 && exit 0
fi
echo 'No Chromium: the test of the exported page will be skipped' \
    '(on Debian: apt install chromium)' >&2
exit 0
