#!/bin/sh
# The programs that the tests hold Outlast against: a PKCS#11 token and independent verifiers. `make demo` needs none.
#
#   softhsm2-util, libsofthsm2.so   a real PKCS#11 token          (softhsm2)
#   openssl                         CMS, timestamps, certificates (openssl)
#   pdfsig                          PDF signatures, by NSS        (poppler-utils)
#   qpdf                            PDF structure                 (qpdf)
#   promtool                        Prometheus' rules             (prometheus; no server of it is needed)
#
# As root with apt they are installed; otherwise the missing ones are named and the exit status is 1.
set -eu

missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need softhsm2-util softhsm2
need openssl openssl
need pdfsig poppler-utils
need qpdf qpdf
need promtool prometheus
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    printf 'Installing%s\n' "$missing" >&2
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi
printf 'The tests need these system packages:%s\n' "$missing" >&2
printf 'Debian, Ubuntu:  sudo apt-get install%s\n' "$missing" >&2
printf 'Fedora:          sudo dnf install softhsm openssl poppler-utils qpdf golang-github-prometheus\n' >&2
printf 'Arch:            sudo pacman -S softhsm openssl poppler qpdf prometheus\n' >&2
exit 1
