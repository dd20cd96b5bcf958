#!/usr/bin/env bash
# Makes the virtual environment that the other scripts use, with the versions of constraints.txt.
#
#   ./launch/setup.sh [--quiet] [EXTRA ...]
#
# EXTRA is an optional part of pyproject.toml, for example deepspeed. What recipes and tests need is always
# installed, and an extra that was added once stays.
#
#   PYTHON=python3.12      the interpreter (default: the first new enough of python3, python3.13, 3.12, 3.11)
#   GAN_DIST_VENV=folder   where (default: .venv in the repository); one that is there already is added to
#   --quiet                say nothing when there is nothing to do
#
# When nothing changed it does nothing and needs no network. Starting it twice at once, or interrupting it, does no harm.
set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
venv=${GAN_DIST_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
made=$venv/.gan_dist-made   # this script made the folder, so it may empty it; says what it was made for
stamp=$venv/.gan_dist-stamp # a line for what is installed, or "unfinished"; one of extras; whose gan_dist

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 2
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Without PYTHON the version is the environment's own, so that no process starts where nothing is to be done.
wanted_version() {
    if [[ -n ${PYTHON:-} ]]; then
        version_of "$PYTHON"
    else
        sed -n 's/^version[a-z_]* *= *\([0-9]*\.[0-9]*\).*/\1/p' "$venv/pyvenv.cfg" 2>/dev/null
    fi
}

fingerprint() {
    { echo "$root $(wanted_version)" && cat "$root/pyproject.toml" "$root/constraints.txt"; } |
        { sha256sum 2>/dev/null || shasum -a 256; }
}

record() {
    printf '%s\n%s\n# %s\n' "$1" "$2" "$3" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

up_to_date() {
    [[ -x $venv/bin/python && -f $stamp ]] || return 1
    local hash have extra
    { read -r hash && read -r have; } <"$stamp" || return 1
    [[ $hash == "$(fingerprint)" ]] || return 1
    for extra in "$@"; do
        [[ ,$have, == *,$extra,* ]] || return 1
    done
}

find_python() {
    local candidates=(python3 python3.13 python3.12 python3.11) candidate version found=""
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        version=$(version_of "$candidate") || continue
        if ((${version%.*} == 3 && ${version#*.} >= 11)); then
            echo "$candidate"
            return
        fi
        found+="${found:+, }$candidate is $version"
    done
    fail "Python 3.11 or newer is needed (${found:-${candidates[0]} cannot be run}); set PYTHON=/path/to/python3.12"
}

quiet=""
extras=()
for argument in "$@"; do
    case $argument in
        -h | --help) usage && exit ;;
        --quiet) quiet=yes ;;
        *)
            grep -q "^$argument = \[\"" "$root/pyproject.toml" ||
                fail "$argument is neither an option nor an extra of pyproject.toml; see --help"
            extras+=("$argument")
            ;;
    esac
done

if up_to_date ${extras[@]+"${extras[@]}"}; then
    [[ -n $quiet ]] || say "$venv is up to date"
    exit
fi

# Refuse what must be refused before anything is written.
others=$(find "$venv/" -mindepth 1 -maxdepth 1 ! -name '.gan_dist-*' 2>/dev/null || true)
if [[ -n $others && ! -f $made ]]; then
    [[ -x $venv/bin/python ]] ||
        fail "$venv holds other things and is no virtual environment; set GAN_DIST_VENV to a new folder"
    PYTHON=${PYTHON:-$venv/bin/python} # a user's own environment, whose Python may exist nowhere else
fi
python=$(find_python)
[[ $python == "$venv/bin/python" ]] || "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; on Debian or Ubuntu: apt install python$(version_of "$python")-venv"

mkdir -p "$venv"
exec 9>"$venv/.gan_dist-lock"
if command -v flock >/dev/null && ! flock -n 9; then
    say "another set-up of $venv is running; waiting for it"
    flock 9
    if up_to_date ${extras[@]+"${extras[@]}"}; then
        exit
    fi
fi

# Keep the extras of the last set-up.
wanted=digits,dev
installed=""
[[ ! -f $stamp ]] || { read -r installed && read -r wanted; } <"$stamp"
for extra in ${extras[@]+"${extras[@]}"}; do
    [[ ,$wanted, == *,$extra,* ]] || wanted+=,$extra
done

place="$venv python$(version_of "$python")" # an environment works only where, and for what, it was made
if [[ -f $made && -f $venv/pyvenv.cfg ]] && [[ $(<"$made") != "$place" || -z $installed || $installed == unfinished ]]; then
    say "starting over: $venv is from an interrupted set-up, another folder or another Python"
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name '.gan_dist-*' -exec rm -rf {} +
fi
[[ -x $venv/bin/python ]] || echo "$place" >"$made"
other=$(sed -n 's/^# //p' "$stamp" 2>/dev/null || true)
record unfinished "$wanted" "${other:-$root}"

if [[ ! -x $venv/bin/python ]]; then
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

[[ -z $other || $other == "$root" ]] ||
    say "note: $venv was set up for the gan_dist in $other; from now on it runs the one in $root"

say "installing gan_dist[$wanted] as pinned in constraints.txt (new: about 7 GB and some minutes)"
# -I and PIP_USER: packages that PYTHONPATH or the user's own folder bring along must not count as installed
# neither it nor its sleep may hold the lock or a caller's pipe when the set-up has ended
while sleep 30 >/dev/null 2>&1; do say "installing: $venv has $(du -sh "$venv" 2>/dev/null | cut -f1) so far"; done 9>&- &
beats=$!
trap 'kill "$beats" 2>/dev/null || true' EXIT
PIP_USER=0 "$venv/bin/python" -I -m pip install -qq --disable-pip-version-check --no-input \
    -c "$root/constraints.txt" -e "${root}[$wanted]" ||
    fail "pip could not install the packages (its reasons are above); the same command tries again"
kill "$beats" 2>/dev/null || true

say "checking that torch, torchvision and gan_dist load together"
"$venv/bin/python" -I -c 'import gan_dist, torch, torchvision' ||
    fail "what was installed does not load; remove $venv and try again"

record "$(fingerprint)" "$wanted" "$root"
say "done: $venv"
