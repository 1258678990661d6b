#!/bin/sh
# Installs what is missing on Debian 12 / Raspberry Pi OS: system packages by apt, Python packages in a venv.
# Running it again does nothing that is done already.
set -eu

VENV=${VENV:-.venv}
EXTRAS=${EXTRAS-verify,cloud,sim,dev}  # of pyproject.toml; empty for a hub alone
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
. packaging/apt.sh

has python3 || { echo "setup: python3 is missing (mend: apt install python3)" >&2; exit 2; }
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: python3 is $(python3 -V 2>&1 | cut -d' ' -f2) (mend: Python 3.11 or newer is needed)" >&2; exit 2; }

missing=""
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
has mosquitto || missing="$missing mosquitto"
apt_install $missing

[ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
echo "setup: installing Python packages into $VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${EXTRAS:+[$EXTRAS]}"
# Services run as users who may not write here: without this each start would compile every file again, in memory
"$VENV/bin/python" -m compileall -q core edge sync cloud firmware_sim hometwin.py
touch "$VENV/.installed"
