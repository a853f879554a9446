#!/bin/sh
# Gets a package of Debian's for the tests that need it, where that needs no question; without it they
# are skipped.  Never fails: a machine without it can still run everything else.
#
#   sh tests/apt_install.sh PACKAGE WHAT [COMMAND...]
#
# WHAT: is skipped without it.  COMMAND: the package, under other names.
package=$1 what=$2
shift 2
for name in "$package" "$@"; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    gets="apt-get install -y -qq --no-install-recommends $package"
    $gets >/dev/null 2>&1 && exit 0
    { apt-get update -qq && $gets; } >/dev/null 2>&1 && exit 0
fi
echo "No $package: $what will be skipped (on Debian: apt install $package)" >&2
exit 0
