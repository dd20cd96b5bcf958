#!/usr/bin/env bash
# Set-up, lint, types, tests; quick tests first, a real Slurm last. tests/conftest.py keeps all of them off the network.
#
#   ./launch/test.sh [pytest arguments]      paths are relative to the repository
#
#   ./launch/test.sh -m 'not slow' -x
#   ./launch/test.sh tests/unit/test_config.py -k unknown_key
#
#   GAN_DIST_REQUIRE=shared,gpu    fail, rather than skip, the tests that need these
#   PYTHON, GAN_DIST_VENV: see launch/setup.sh
set -euo pipefail

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)
venv=${GAN_DIST_VENV:-${here%/*}/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

"$here/setup.sh" --quiet deepspeed
export PATH="$venv/bin:$PATH"
cd "$here/.."
ruff check
ruff format --check
mypy
if (($#)); then
    exec pytest "$@"
fi
pytest --ignore=tests/slurm
# these wait more than they compute: two clusters beside each other, one for each file
exec pytest -n 2 --dist loadfile tests/slurm
