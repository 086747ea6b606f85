#!/usr/bin/env bash
# Sets up the environment if needed, then runs the tests.
#
# usage: bash tests/run.sh [--quick] [options of pytest]
#
#   --quick                run the quick tests only, on all cores
#   VENV=DIR, PYTHON=NAME  as for scripts/setup.sh
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../scripts/common.sh"
# The entry points that the tests start use this environment too.
export VENV
bash "$ROOT/scripts/setup.sh"

requirements=$ROOT/tests/requirements.lock
installed=$VENV/.setup/tests
if ! cmp -s "$requirements" "$installed"; then
  "$VENV/bin/python" -m pip install -r "$requirements"
  cp "$requirements" "$installed"
fi
cd "$ROOT"
if [ "${1:-}" = --quick ]; then
  # Markers say what a test needs, see pyproject.toml.
  shift
  set -- -m 'not (processes or training or compiles)' \
    --numprocesses auto --dist loadfile "$@"
fi
PATH="$VENV/bin:$PATH" exec "$VENV/bin/python" -m pytest "$@"
