#!/bin/sh
# Installs this checkout into .venv, which is made if need be: sh tools/setup.sh '.[dev]'
#
# PYTHON names the interpreter (otherwise the first one found that is new enough); PIP_ARGS are
# handed to pip install. The torch of constraints.txt goes in first and by name, so that whichever
# build pip is pointed to (the small CPU one, say) is the one that everything else then finds.
set -eu

requirement=$1
cd "$(dirname "$0")/.."

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3.12 python3.11 python3.13 python3 python; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python of version 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3"
}

# Some distributions keep the module venv in a package of its own.
ensure_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        printf 'setup: installing the system package %s\n' "$package" >&2
        { apt-get update && apt-get install -y --no-install-recommends "$package"; } >&2
    else
        fail "$1 has no module venv: install the system package $package (as root), then run make again"
    fi
}

if ! { [ -x .venv/bin/python ] && new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python)
    ensure_venv_module "$python"
    printf 'setup: making .venv with %s\n' "$("$python" --version)" >&2
    "$python" -m venv --clear .venv
fi

# The tests of the napari plugin open real windows, on a screen that they make; without these
# packages they are skipped, and all else works.
window_packages="libdbus-1-3 libegl1 libfontconfig1 libgl1 libgl1-mesa-dri libglib2.0-0 libopengl0
libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0
libxcb-shape0 libxcb-xinerama0 libxkbcommon-x11-0 xvfb"

ensure_window_packages() {
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || return 0
    missing=
    for package in $window_packages; do
        # Later releases of Debian call some of them by the name with t64.
        dpkg-query -W -f '${Status}\n' "$package" "${package}t64" 2>/dev/null |
            grep -q ' installed$' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        printf 'setup: tests of the napari plugin are skipped without the system packages%s\n' "$missing" >&2
        return 0
    fi
    printf 'setup: installing the system packages%s\n' "$missing" >&2
    # shellcheck disable=SC2086
    { apt-get update && apt-get install -y --no-install-recommends $missing; } >&2 ||
        printf 'setup: they cannot be had; tests of the napari plugin are skipped\n' >&2
}

install() {
    # shellcheck disable=SC2086
    .venv/bin/python -m pip install --disable-pip-version-check --quiet ${PIP_ARGS:-} "$@"
}

case $requirement in
*dev*) ensure_window_packages ;;
esac

torch=$(grep '^torch==' constraints.txt)
printf 'setup: installing %s and %s (a few minutes when new)\n' "$torch" "$requirement" >&2
install "$torch" -c constraints.txt
install -c constraints.txt -e "$requirement"
