# Sourced by setup.sh and test-tools.sh: Debian packages for commands that are missing.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else
        echo "setup: '$*' needs root (mend: run it as root, or install sudo, then run make again)" >&2
        exit 2
    fi
}

# has COMMAND: whether it is there, also where only root looks
has() { PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null 2>&1; }

# apt_install PACKAGES: nothing to do when the list is empty
apt_install() {
    [ -n "$*" ] || return 0
    command -v apt-get >/dev/null 2>&1 || { echo "setup: missing: $* (mend: install them, there is no apt here)" >&2; exit 2; }
    echo "setup: installing $*"
    as_root apt-get update -qq
    # --no-install-recommends keeps a Pi small; the packaged broker service is left as apt leaves it
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}
