#!/bin/sh
# Installs what is missing on Debian 12 / Raspberry Pi OS: system packages by apt, Python packages in a venv.
# Running it again does nothing that is done already.
set -eu

VENV=${VENV:-.venv}
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else
        echo "setup: '$*' needs root (mend: run it as root, or install sudo, then run make again)" >&2
        exit 2
    fi
}

command -v python3 >/dev/null 2>&1 || { echo "setup: python3 is missing (mend: apt install python3)" >&2; exit 2; }
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: python3 is $(python3 -V 2>&1 | cut -d' ' -f2) (mend: Python 3.11 or newer is needed)" >&2; exit 2; }

missing=""
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto >/dev/null 2>&1 || missing="$missing mosquitto"
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || { echo "setup: missing:$missing (mend: install them, there is no apt here)" >&2; exit 2; }
    echo "setup: installing$missing"
    as_root apt-get update -qq
    # --no-install-recommends keeps a Pi small; the packaged broker service is left as apt leaves it
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

[ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
echo "setup: installing Python packages into $VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[verify,cloud,sim,dev]'
touch "$VENV/.installed"
