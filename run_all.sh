#!/usr/bin/env bash
# Finds or makes the environment (benchmarks/environment.py), then runs `clove` (benchmarks/clove.py) in it.
set -euo pipefail
root="$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"

usage() {
    cat <<'END'
One command from images to tables: pretrain, convert, fine-tune, evaluate.

  ./run_all.sh --demo                 everything, small, on generated images; no GPU needed
  ./run_all.sh --epochs 200           the full protocol
  ./run_all.sh --dry-run OPTIONS      what would run, what it needs, what is missing
  ./run_all.sh environment            only make the environment: .venv in this checkout, about 6 GB
  ./run_all.sh test [OPTIONS]         the fast tests; --slow or --longest for those, --all for all; other options go to pytest
  ./run_all.sh COMMAND ARGUMENTS      any command of `clove`, such as ./run_all.sh inspect FILE  ; clove itself is on the PATH
                                      after `source .venv/bin/activate`
  ./run_all.sh python ARGUMENTS       the environment's Python

Needs Python 3.11, 3.12 or 3.13 with venv (Debian, Ubuntu: the package python3-venv) and the package index, once.
An active venv or conda environment that has every package is used as it is; otherwise .venv is made and used.
END
}

fail() {
    echo "error: $*" >&2
    exit 2
}

# Any Python 3 can run environment.py, which then looks for the right one; a finished .venv's own starts fastest.
any_python() {
    local candidate version finished="" found=""
    if [ -e "$root/.venv/complete.json" ]; then finished="$root/.venv/bin/python"; fi
    for candidate in ${finished:+"$finished"} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        if version="$("$candidate" -V 2>/dev/null)"; then found="${found:+$found, }$version"; fi
    done
    fail "expected Python 3.11, 3.12 or 3.13 with venv, found ${found:-no python3};" \
        "install it (Debian, Ubuntu: apt install python3-venv) and start again"
}

find_environment() {
    local runner
    runner="$(any_python)" || return
    "$runner" -I "$root/benchmarks/environment.py" find "$@"
}

case "$root" in
    *:*) fail "expected a folder without a colon (neither venv nor PYTHONPATH can hold one), found $root; move it" ;;
esac
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

case "${1:---help}" in
    -h | --help)
        usage
        if python="$(find_environment --only-look 2>/dev/null)"; then
            echo
            exec "$python" -P -m benchmarks --help
        fi
        echo "The pipeline's own options are listed here once the environment is made."
        ;;
    environment)
        python="$(find_environment --test)"
        echo "environment: $python"
        ;;
    python)
        python="$(find_environment)"
        exec "$python" -P "${@:2}"
        ;;
    test)
        python="$(find_environment --test)"
        cd -- "$root"
        cores="$(env -u OMP_NUM_THREADS nproc)"  # nproc would take that variable for the number of cores
        # One thread a worker: the same sums everywhere, and no fight over the cores.
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
        workers=$((cores < 4 ? cores : 4))
        exec "$python" -P -m pytest -n "$workers" --dist worksteal "${@:2}"
        ;;
    -*)
        python="$(find_environment)"
        exec "$python" -P -m benchmarks "$@"
        ;;
    *)
        python="$(find_environment)"
        exec "$python" -P -m benchmarks.clove "$@"
        ;;
esac
