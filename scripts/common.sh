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

# probe_python EXECUTABLE: prints its version and its true path, the same for
# all its names; that of a virtual environment is the link inside it.
probe_python() {
  "$1" - <<'PY' 2>/dev/null
import os
import sys

path = sys.executable
if sys.prefix == sys.base_prefix:
    path = os.path.realpath(path)
print('%d.%d' % sys.version_info[:2], path)
PY
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

# shellcheck disable=SC2034 # PY is for the caller.
# ensure_setup: sets PY, the interpreter that has everything; runs set-up if
# there is none yet.
ensure_setup() {
  PY=$VENV/bin/python
  if [ -z "$VENV_GIVEN" ] && [ ! -e "$VENV" ] &&
    installed_by_hand "${PYTHON:-python3}"; then
    PY=${PYTHON:-python3}
    return
  fi
  bash "$ROOT/scripts/setup.sh" --if-needed >&2
}

# is_count TEXT: whether it is a whole number from 1.
is_count() {
  [[ $1 =~ ^[1-9][0-9]*$ ]]
}

# shellcheck disable=SC2034 # the variables are for the caller
# read_job ARGUMENT...: takes from the command line of a training or an
# evaluation what is for the shell, and sets
#   sample      'yes' with --sample
#   config      what --config names; by default the large model, or the sample
#   checkpoint  what --checkpoint names
#   rest        everything else
read_job() {
  local name
  sample=''
  config=''
  checkpoint=''
  rest=()
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        show_help
        exit
        ;;
      --sample) sample=yes ;;
      --config | --checkpoint)
        [ $# -gt 1 ] || refuse "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
      --config=* | --checkpoint=*)
        name=${1%%=*}
        printf -v "${name#--}" %s "${1#*=}"
        ;;
      *) rest+=("$1") ;;
    esac
    shift
  done
  name=hourglass52_mpii_384x384
  [ -z "$sample" ] || name=hourglass_mpii_sample_96x96
  config=${config:-$ROOT/mmpose-master/configs/top_down/hourglass/mpii/$name.py}
}

# make_sample: draws the sample data if there are none.
make_sample() {
  local data=$ROOT/mmpose-master/data/mpii_sample
  [ -e "$data" ] || "$PY" "$ROOT/mmpose-master/tools/make_sample_mpii.py"
}

# children_of PID: prints the ids of its child processes.
children_of() {
  local stat line parent
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    # Behind the name, which may hold anything: state, parent.
    read -r _ parent _ <<<"${line##*) }"
    if [ "$parent" = "$1" ]; then
      stat=${stat#/proc/}
      printf '%s\n' "${stat%/stat}"
    fi
  done
}

# pass_on SIGNAL: what wait_for does with a signal; a script may replace
# it. Here it goes to the process group of $child.
pass_on() {
  [ -z "$child" ] || kill -s "$1" -- "-$child"
}

# wait_for COMMAND...: runs it in a process group of its own and passes signals
# on; while a plain command runs, a shell does not act on them.
wait_for() {
  local status=0
  child=''
  interrupted=''
  trap 'interrupted=130; pass_on INT' INT
  trap 'interrupted=143; pass_on TERM' TERM
  trap 'interrupted=129; pass_on TERM' HUP
  trap 'pass_on USR1' USR1
  set -m
  "$@" &
  child=$!
  set +m
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
  trap - INT TERM HUP USR1
  [ -z "$interrupted" ] || [ "$status" != 0 ] || status=$interrupted
  return "$status"
}

# train NPROC ARGUMENT...: trains; with --sample evaluates afterwards.
train() {
  local nproc=$1 argument taken='' evaluation=()
  shift
  read_job "$@"
  # The sample on several devices has a recipe of its own.
  [ -z "$sample" ] || [ "$nproc" = 1 ] ||
    config=${config/%_sample_96x96.py/_sample_96x96_8p.py}
  [ -z "$checkpoint" ] ||
    refuse 'a training goes on from --resume-from K, not --checkpoint'
  set -- "$ROOT/scripts/launch.sh" train "$nproc" "$config" \
    ${rest[@]+"${rest[@]}"}
  [ -n "$sample" ] || exec bash "$@"
  ensure_setup
  make_sample
  wait_for bash "$@"
  # The evaluation wants to know where and what has been trained.
  for argument in ${rest[@]+"${rest[@]}"}; do
    case $argument in
      --device | --work-dir | --cfg-options | --options) taken=yes ;;
      --device=* | --work-dir=* | --cfg-options=* | --options=*) taken=last ;;
      -*) taken='' ;;
    esac
    [ -z "$taken" ] || evaluation+=("$argument")
    [ "$taken" != last ] || taken=''
  done
  exec bash "$ROOT/scripts/eval.sh" "$nproc" --config "$config" \
    ${evaluation[@]+"${evaluation[@]}"}
}
