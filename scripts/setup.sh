#!/bin/sh
# Make .venv hold exactly the pinned packages and the project itself. Run by `make setup`, `make demo`, `make test`.
#
#   scripts/setup.sh run      what the program needs
#   scripts/setup.sh dev      ... and the tools and servers of the tests
#   scripts/setup.sh bench    ... and the peers it is measured against
#
# Every package is checked against its hash. Nothing is done when nothing changed: a stamp in .venv holds the digest
# of all inputs. PYTHON=/path/to/python chooses the interpreter; otherwise the first of python3.11 to 3.14 and
# python3 that is at least 3.11 is taken.
set -eu
cd "$(dirname "$0")/.."
scope=${1:-dev}
venv=.venv

say() { printf '%s\n' "$*" >&2; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if command -v "$name" >/dev/null 2>&1 && new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    say "Outlast needs Python 3.11 or newer, and none was found."
    say "Install it (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv) or say PYTHON=/path/to/python3.11."
    exit 1
}

case $scope in
    run) files="requirements/build.txt requirements/run.txt" accept="run dev bench" ;;
    dev) files="requirements/dev.txt" accept="dev bench" ;;
    bench) files="requirements/bench.txt" accept="bench" ;;
    *) say "usage: scripts/setup.sh run|dev|bench"; exit 2 ;;
esac

python=$(find_python)
# A moved folder or another interpreter makes the environment a different one: its scripts hold absolute paths.
stamp=$({ pwd; "$python" -VV; cat pyproject.toml requirements/*.txt; } | "$python" -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
for done_scope in $accept; do
    if [ "$(cat "$venv/.outlast-$done_scope" 2>/dev/null)" = "$stamp" ]; then
        exit 0
    fi
done

make_venv() {
    "$python" -m venv --clear "$venv" >/dev/null 2>&1 && return
    # Debian keeps ensurepip in a package of its own
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "python3-venv is missing: installing it"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        "$python" -m venv --clear "$venv" >/dev/null && return
    fi
    say "Cannot make a virtual environment with $python."
    say "Install its venv module (Debian, Ubuntu: apt-get install python3-venv) and run this again."
    exit 1
}

same_python() { [ "$("$venv/bin/python" -VV 2>/dev/null)" = "$("$python" -VV)" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

# pip's own scripts carry the path of the folder they were made in
moved() { ! grep -qs "$(pwd)/" "$venv/bin/pip"; }

say "Setting up .venv ($scope), one or two minutes the first time ..."
if ! same_python || moved; then
    make_venv
fi
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@"; }

requirements=
for file in $files; do
    requirements="$requirements -r $file"
done
# shellcheck disable=SC2086  # a list of words on purpose
pip install --require-hashes $requirements
pip install --no-deps --no-build-isolation --editable .
printf '%s\n' "$stamp" >"$venv/.outlast-$scope"
say "Ready: $venv/bin/outlast"
