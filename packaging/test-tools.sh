#!/bin/sh
# What only the tests need from Debian: the browser that opens the portal, and the judge of our systemd units.
set -eu

VENV=${VENV:-.venv}
cd "$(dirname "$0")/.."
. packaging/apt.sh

missing=""
has chromium || has chromium-browser || missing="$missing chromium"
has systemd-analyze || missing="$missing systemd"
apt_install $missing
touch "$VENV/.test-tools"
