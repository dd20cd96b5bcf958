#!/usr/bin/env bash
# Set-up, lint, types, tests. tests/conftest.py keeps all tests off the network.
#
#   ./launch/test.sh                         the quick tier: what most edits need
#   ./launch/test.sh --all                   everything, with a real Slurm; what CI runs
#   ./launch/test.sh [pytest arguments]      paths are relative to the repository
#
#   ./launch/test.sh tests/unit/test_config.py -k unknown_key
#   ./launch/test.sh -m exhaustive           full products of engines, passes and penalties: hours
#
# Quick leaves out what is marked slow, fault, deepspeed or slurm, and tests/slurm. Tests marked exhaustive run only when
# `-m` names that mark. Four long files of tests/dist run only when named, as by `./launch/test.sh tests/dist`: after a
# change of engine/ or checkpoint/.
#
#   GAN_DIST_REQUIRE=shared,gpu    fail, rather than skip, the tests that need these
#   PYTHON, GAN_DIST_VENV: see launch/setup.sh
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

tier=quick
if [[ ${1:-} == --all ]]; then
    tier=all
    shift
fi
case ${1:-} in
    -h | --help) usage && exit ;;
esac

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)
venv=${GAN_DIST_VENV:-${here%/*}/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

"$here/setup.sh" --quiet deepspeed
export PATH="$venv/bin:$PATH"
cd "$here/.."
ruff check
ruff format --check
mypy
if [[ $tier == quick ]]; then
    (($#)) || set -- -n 2 --dist loadfile -m "not slow and not fault and not deepspeed and not slurm" --ignore=tests/slurm
    exec pytest "$@"
fi
# The first part that fails ends it, so that the last lines are pytest's and tell what failed.
part() { pytest "$@" || [[ $? -eq 5 && $picked -gt 0 ]]; } # 5: the arguments pick no test of this part
picked=$#
# a file's tests share data and runs: one worker takes them all
part -n 2 --dist loadfile --ignore=tests/fault --ignore=tests/slurm "$@"
# of ranks that hang and launchers that die: one at a time
part tests/fault "$@"
# these wait more than they compute: two clusters beside each other, one for each file
part -n 2 --dist loadfile tests/slurm "$@"
