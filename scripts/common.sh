# shellcheck shell=bash
# Sourced by the scripts of this folder: messages, interpreters, set-up.
#
# Empty arrays are written ${a[@]+"${a[@]}"}: bash 4.2, which is what CentOS 7
# has, takes "${a[@]}" of an empty array for an unset variable.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV_GIVEN=${VENV:-}
VENV=${VENV:-$ROOT/.venv}
case $VENV in
  /*) ;;
  *) VENV=$PWD/$VENV ;;
esac
PYTHONS='Python 3.7 or 3.9 to 3.12'

say() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
  say "error: $*"
  exit 1
}

# The user has to change something.
refuse() {
  say "error: $*"
  exit 2
}

# The comment at the head of the calling script is its help.
show_help() {
  sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
}

# probe_python EXECUTABLE: prints its version and its true path.
probe_python() {
  "$1" -c 'import sys
print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null
}

# find_python NAME: the same for a name on PATH. A shim of pyenv is on PATH
# even where its version is not active, and then does not run; the versions
# themselves do.
find_python() {
  local candidate
  for candidate in "$1" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/"$1"; do
    probe_python "$candidate" && return
  done
  return 1
}

is_supported() {
  case $1 in
    3.7 | 3.9 | 3.10 | 3.11 | 3.12) ;;
    *) return 1 ;;
  esac
}

# choose_python: prints version and path of the interpreter to build on.
choose_python() {
  local name found
  if [ -n "${PYTHON:-}" ]; then
    found=$(find_python "$PYTHON") ||
      refuse "PYTHON=$PYTHON does not run here; name $PYTHONS"
    is_supported "${found%% *}" ||
      refuse "PYTHON=$PYTHON is Python ${found%% *}; name $PYTHONS"
    printf '%s\n' "$found"
    return
  fi
  for name in python3 python3.11 python3.10 python3.12 python3.9 python3.7; do
    if found=$(find_python "$name") && is_supported "${found%% *}"; then
      printf '%s\n' "$found"
      return
    fi
  done
  refuse "there is no $PYTHONS here; install one, or name it with PYTHON="
}

# installed_by_hand PYTHON: whether mmpose-master/setup.py has been run with
# it. Only then the installed mmpose holds the originals of what was changed.
installed_by_hand() {
  "$1" - <<'PY' 2>/dev/null
import importlib.util
import os
import sys

specs = [importlib.util.find_spec(name) for name in ('torch', 'mmcv', 'mmpose')]
sys.exit(not (all(specs) and os.path.isdir(os.path.join(
    os.path.dirname(specs[2].origin), '.originals'))))
PY
}

# ensure_setup: sets PY, the interpreter that has everything; runs set-up if
# there is none yet.
ensure_setup() {
  # shellcheck disable=SC2034 # for the caller
  PY=$VENV/bin/python
  if [ -z "$VENV_GIVEN" ] && [ ! -e "$VENV" ] &&
    installed_by_hand "${PYTHON:-python3}"; then
    PY=${PYTHON:-python3}
    return
  fi
  bash "$ROOT/scripts/setup.sh" --if-needed >&2
}
