# shellcheck shell=bash
# Shared by the scripts of this folder: messages, choice of Python, set-up.
#
# Expand arrays as ${a[@]+"${a[@]}"}: with set -u, bash 4.2 (CentOS 7) treats
# "${a[@]}" of an empty array as an unset variable.

# What the user's shell exports must not change the commands used here, such as
# a cd that prints.
# shellcheck disable=SC2046 # a list of words
unset -f $(compgen -A function) 2>/dev/null || true
unset CDPATH

ROOT=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)
VENV_GIVEN=${VENV:-}
VENV=${VENV:-$ROOT/.venv}
case $VENV in
  /*) ;;
  *) VENV=$PWD/$VENV ;;
esac
case ${PYTHON:-} in
  /*) ;;
  */*) PYTHON=$PWD/$PYTHON ;;
esac
PYTHONS='Python 3.7 or 3.9 to 3.13'
# Commands that get a served Python.
GET_PYTHON='apt-get install python3.12-venv, uv python install 3.12, or conda '
GET_PYTHON+='create -n py312 python=3.12'

# File descriptor of messages: setup.sh redirects 2 while it works.
messages=2

say() {
  printf '%s: %s\n' "${0##*/}" "$*" >&"$messages"
}

die() {
  say "error: $*"
  exit 1
}

# For mistakes of the user.
refuse() {
  say "error: $*"
  exit 2
}

# isolate: hides from Python what is not of its environment: PYTHONHOME, the
# user site, and PYTHONPATH but for the folders of CANN and those named in
# HOURGLASS_PYTHONPATH. Another mmpose there would be found before ours.
isolate() {
  local kept=${HOURGLASS_PYTHONPATH:-} dropped='' entry cann
  local -a entries
  IFS=: read -r -a entries <<<"${PYTHONPATH:-}"
  for entry in ${entries[@]+"${entries[@]}"}; do
    for cann in "${ASCEND_TOOLKIT_HOME:-}" "${ASCEND_HOME_PATH:-}" \
      "${ASCEND_OPP_PATH:-}"; do
      if [ "$cann" ] && [[ $entry = "$cann"/* ]]; then
        kept+=${kept:+:}$entry
        continue 2
      fi
    done
    case :${HOURGLASS_PYTHONPATH:-}: in
      *":$entry:"*) ;;
      *) dropped+=${dropped:+:}$entry ;;
    esac
  done
  [ -z "$dropped" ] ||
    say "note: PYTHONPATH=$dropped is not used; HOURGLASS_PYTHONPATH names" \
      'folders with modules of your own'
  unset PYTHONPATH PYTHONHOME
  [ -z "$kept" ] || export PYTHONPATH=$kept
  export PYTHONNOUSERSITE=1
}

# Prints the comment at the head of the calling script.
show_help() {
  sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
}

# probe_python EXECUTABLE: prints its version and path. Symbolic links are
# resolved, except in a virtual environment, which is found by its link.
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

# find_python NAME: the same for a name on PATH. A pyenv shim fails unless its
# version is active, so the versions that pyenv has installed are tried too.
find_python() {
  local candidate
  for candidate in "$1" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/"$1"; do
    probe_python "$candidate" && return
  done
  return 1
}

is_supported() {
  case $1 in
    3.7 | 3.9 | 3.10 | 3.11 | 3.12 | 3.13) ;;
    *) return 1 ;;
  esac
}

# choose_python: prints version and path of the interpreter for set-up.
choose_python() {
  local name found
  if [ -n "${PYTHON:-}" ]; then
    found=$(find_python "$PYTHON") ||
      refuse "PYTHON=$PYTHON cannot be run; use $PYTHONS"
    is_supported "${found%% *}" ||
      refuse "PYTHON=$PYTHON is Python ${found%% *}; use $PYTHONS" \
        "(to get one: $GET_PYTHON)"
    printf '%s\n' "$found"
    return
  fi
  for name in python3 python3.11 python3.10 python3.12 python3.13 python3.9 \
    python3.7; do
    if found=$(find_python "$name") && is_supported "${found%% *}"; then
      printf '%s\n' "$found"
      return
    fi
  done
  refuse "found no $PYTHONS; set PYTHON to the path of one (to get one:" \
    "$GET_PYTHON)"
}

# installed_by_hand PYTHON: succeeds if mmpose-master/setup.py has been run
# with it: then the installed mmcv and mmpose have a folder .originals. The
# packages may be in the user site.
installed_by_hand() {
  (cd / && PYTHONNOUSERSITE='' "$1" -) <<'PY' 2>/dev/null
import importlib.util
import os
import sys

specs = [importlib.util.find_spec(name) for name in ('torch', 'mmcv', 'mmpose')]
sys.exit(not (all(specs) and all(
    spec.origin
    and os.path.isdir(os.path.join(os.path.dirname(spec.origin), '.originals'))
    for spec in specs[1:])))
PY
}

# shellcheck disable=SC2034 # PY is for the caller.
# ensure_setup: sets PY to the interpreter that has all packages; runs set-up
# if it has not been run yet.
ensure_setup() {
  PY=$VENV/bin/python
  if [ -z "$VENV_GIVEN" ] && [ ! -e "$VENV" ] &&
    installed_by_hand "${PYTHON:-python3}"; then
    PY=${PYTHON:-python3}
    unset PYTHONNOUSERSITE
    return
  fi
  bash "$ROOT/scripts/setup.sh" --if-needed >&2
}

# is_count TEXT: succeeds for a whole number, at least 1.
is_count() {
  [[ $1 =~ ^[1-9][0-9]*$ ]]
}

# shellcheck disable=SC2034 # the variables are for the caller
# read_job ARGUMENT...: parses the options that the shell scripts handle, and
# sets
#   sample      'yes' with --sample
#   config      value of --config (default: the large model, or the sample)
#   checkpoint  value of --checkpoint
#   rest        all other arguments
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

# count_devices: prints the number of NPUs or CUDA devices.
count_devices() {
  local count
  # shellcheck source=env.sh
  count=$(_hg_quiet=yes && source "$ROOT/env.sh" && "$PY" -c '
from mmcv.runner.dist_utils import device_count
print(device_count("npu") or device_count("cuda"))' 2>/dev/null | tail -n 1)
  [[ $count =~ ^[0-9]+$ ]] && echo "$count"
}

# make_sample: creates the sample data set if it does not exist.
make_sample() {
  local data=$ROOT/mmpose-master/data/mpii_sample
  [ -e "$data" ] || "$PY" "$ROOT/mmpose-master/tools/make_sample_mpii.py"
}

# children_of PID: prints the ids of its child processes.
children_of() {
  local stat line parent
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    # After the name, which may hold any character: state, parent.
    read -r _ parent _ <<<"${line##*) }"
    if [ "$parent" = "$1" ]; then
      stat=${stat#/proc/}
      printf '%s\n' "${stat%/stat}"
    fi
  done
}

# pass_on SIGNAL: sends a signal that wait_for has received to the process
# group of $child. A script may redefine it.
pass_on() {
  [ -z "$child" ] || kill -s "$1" -- "-$child"
}

# name_launchers: prints the processes that a child must not outlive: those of
# this script, then this script, each as PID:START, START being its time of
# start. See hourglass_npu/lifetime.py.
name_launchers() {
  local line fields
  read -r line <"/proc/$$/stat"
  # After the name, which may hold any character: state, and 18 more.
  read -r -a fields <<<"${line##*) }"
  printf '%s\n' "${HOURGLASS_LAUNCHERS:-} $$:${fields[19]}"
}

# wait_for COMMAND...: runs it in its own process group and passes signals on.
# (A shell runs no trap while it waits for a foreground command.) Python
# processes below it end when this script is killed.
wait_for() {
  local status=0 launchers
  launchers=$(name_launchers)
  child=''
  interrupted=''
  trap 'interrupted=130; pass_on INT' INT
  trap 'interrupted=143; pass_on TERM' TERM
  trap 'interrupted=129; pass_on HUP' HUP
  trap 'pass_on USR1' USR1
  set -m
  HOURGLASS_LAUNCHERS=$launchers "$@" &
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

# train NPROC ARGUMENT...: trains, and with --sample evaluates what is left.
train() {
  local nproc=$1 argument taken='' evaluation=()
  shift
  read_job "$@"
  # On several devices the sample has its own config.
  [ -z "$sample" ] || [ "$nproc" = 1 ] ||
    config=${config/%_sample_96x96.py/_sample_96x96_8p.py}
  [ -z "$checkpoint" ] ||
    refuse '--checkpoint is for evaluation; use --resume-from K to resume'
  set -- "$ROOT/scripts/launch.sh" train "$nproc" "$config" \
    ${rest[@]+"${rest[@]}"}
  [ -n "$sample" ] || exec bash "$@"
  ensure_setup
  make_sample
  wait_for bash "$@"
  # Pass on the options that say where and what was trained.
  for argument in ${rest[@]+"${rest[@]}"}; do
    case $argument in
      --device | --work-dir | --cfg-options | --options) taken=yes ;;
      --device=* | --work-dir=* | --cfg-options=* | --options=*) taken=last ;;
      --dry-run | --profile | --profile=*) return ;; # leaves no checkpoint
      -*) taken='' ;;
    esac
    [ -z "$taken" ] || evaluation+=("$argument")
    [ "$taken" != last ] || taken=''
  done
  exec bash "$ROOT/scripts/eval.sh" "$nproc" --config "$config" \
    ${evaluation[@]+"${evaluation[@]}"}
}

case $ROOT$VENV in
  *[$':\n']*)
    refuse "the path $(printf %q "$ROOT") or $(printf %q "$VENV") has a colon" \
      'or a line break, which environments cannot have: move or rename it'
    ;;
esac
isolate
