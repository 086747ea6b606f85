#!/usr/bin/env bash
# Sets up the environment if needed, then runs the tests on all cores, each
# file on one of them.
#
# usage: bash tests/run.sh [--quick] [options of pytest]
#
#   --quick                run the quick tests only: 90 seconds on two cores
#   -n 0                   run one test after the other, as --pdb needs it
#   VENV=DIR, PYTHON=NAME  as for scripts/setup.sh
#
# Example: PYTHON=python3.7 VENV=.venv37 bash tests/run.sh --quick
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/../scripts/common.sh"
# The entry points that the tests start use this environment too.
export VENV
bash "$ROOT/scripts/setup.sh"

requirements=$ROOT/tests/requirements.lock
installed=$VENV/.setup/tests
if ! cmp -s "$requirements" "$installed"; then
  (
    # shellcheck source=scripts/packages.sh
    source "$ROOT/scripts/packages.sh"
    py=$VENV/bin/python
    configure_pip "$py"
    install -r "$requirements"
  )
  cp "$requirements" "$installed"
fi
cd "$ROOT"
if [ "${1:-}" = --quick ]; then
  # Markers say what a test needs, see pyproject.toml.
  shift
  set -- -m 'not (processes or training or compiles)' "$@"
fi
PATH="$VENV/bin:$PATH" exec "$VENV/bin/python" -m pytest \
  --numprocesses auto --dist loadfile "$@"
