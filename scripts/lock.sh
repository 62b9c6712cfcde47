#!/bin/sh
# Pin every dependency, with hashes, into requirements/. Run by `make lock`.
#
# bench.txt holds everything and is resolved first; the others are cut from it, so that one environment can hold
# all of them. A pin moves only when asked: `make lock UPGRADE=1` takes the newest, otherwise pins are kept.
# Whatever index this machine uses, no address is written: the files are the same for everybody.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv

compile() {
    out=requirements/$1.txt
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header \
        --custom-compile-command "make lock" "$@" --output-file "$out"
}

compile bench ${UPGRADE:+--upgrade} pyproject.toml --group build --group dev --group bench
compile dev --constraints requirements/bench.txt pyproject.toml --group build --group dev
# what a site with several nodes needs is in the image, too
compile run --constraints requirements/bench.txt pyproject.toml --extra postgres --extra s3
compile build --constraints requirements/bench.txt --group build
