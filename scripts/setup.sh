#!/usr/bin/env bash
# Creates the virtual environment that all commands run in.
#
# usage: bash scripts/setup.sh [option...]
#
#   --with-ops      also build mmcv-full's operators, which mmpose 0.8.0 does
#                   not use (10 to 20 minutes)
#   --if-needed     print nothing if everything is set up already
#   --dry-run       print what would be done; change nothing
#   --download DIR  only put all packages into DIR, for a host without network
#   --for 3.10-aarch64   ... for that Python and machine (default: as here)
#   --from DIR      install from such a folder; the network is not used
#   VENV=DIR        folder of the environment (default: .venv)
#   PYTHON=NAME     Python to use, 3.7 or 3.9 to 3.13 (default: python3)
#   TORCH=VERSION, TORCH_NPU=VERSION
#                   install these; TORCH_NPU also takes a wheel's path or 'none'
#
# Examples: PYTHON=python3.11 bash scripts/setup.sh
#           bash scripts/setup.sh --download wheels --for 3.10-aarch64
#
# A torch (and torch_npu) that this Python has is used. With CANN and without
# torch_npu, Ascend's version matrix decides. Run it again to repair.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"
# shellcheck source=scripts/packages.sh
source "$ROOT/scripts/packages.sh"

with_ops=''
if_needed=''
dry_run=''
folder=''
mode=''
target=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      show_help
      exit
      ;;
    --with-ops) with_ops=ops ;;
    --if-needed) if_needed=yes ;;
    --dry-run) dry_run=yes ;;
    --download | --from | --for)
      [ $# -gt 1 ] || refuse "$1 needs a value"
      case $1 in
        --for) target=$2 ;;
        *)
          mode=${1#--}
          folder=$(readlink -m -- "$2")
          ;;
      esac
      shift
      ;;
    *) refuse "unknown option $1; --help lists all" ;;
  esac
  shift
done
[[ -z $target || $target =~ ^3\.[0-9]+-[a-z0-9_]+$ ]] ||
  refuse "--for $target: such as --for 3.10-aarch64"
[ -z "$target" ] || is_supported "${target%%-*}" || refuse "--for $target: $PYTHONS"
[ -z "$target" ] || [ "$mode" = download ] || refuse '--for needs --download DIR'

# Python finds nothing but what belongs to it, neither by a variable nor in the
# working directory.
unset PYTHONPATH
case ${TORCH_NPU:-} in
  /*) ;;
  *.whl) TORCH_NPU=$PWD/$TORCH_NPU ;;
esac
cd -- "$ROOT"

# Finished steps are recorded in this folder, one file per step:
#   python    version and path of the base interpreter
#   request   values of TORCH and TORCH_NPU
#   packages  hash of the installed requirements
#   mmcv      'plain' or 'ops': mmcv and mmpose are installed
#   patches   hash of the changes applied to them
#   package   folder of hourglass_npu, which is installed editable
# A file is removed before its step begins: a step without one is incomplete.
# Incomplete packages are installed from scratch, because pip treats a
# half-written install as complete.
state=$VENV/.setup
py=$VENV/bin/python
# lock.sh writes these from the .txt files beside them. torch is not included:
# it comes from the host, or from the index for the host's accelerator.
requirements=$ROOT/mmpose-master/requirements.lock
source_requirements=$ROOT/mmpose-master/requirements-source.lock
mmcv_requirements=$ROOT/scripts/requirements-mmcv.lock
build_requirements=$ROOT/scripts/requirements-build.lock
torch_requirements=$ROOT/scripts/requirements-torch.txt
npu_requirements=$ROOT/scripts/requirements-npu.lock
modules='torch numpy cv2 scipy matplotlib PIL yaml addict yapf json_tricks
  munkres onnx onnxruntime google.protobuf setuptools pip'

noted() {
  cat "$state/$1" 2>/dev/null || true
}

note() {
  printf '%s\n' "$2" >"$state/$1.new"
  mv "$state/$1.new" "$state/$1"
}

hash_of() {
  cat -- "$@" | sha256sum | cut -d ' ' -f 1
}

# has_modules NAME...: succeeds if all can be found; imports none of them.
has_modules() {
  "$py" - "$@" <<'PY' 2>/dev/null
import importlib.util
import sys

sys.exit(not all(importlib.util.find_spec(name) for name in sys.argv[1:]))
PY
}

# has_packages: succeeds if the packages step was finished and nothing has been
# removed since.
has_packages() {
  # shellcheck disable=SC2086 # a list of words
  [ -n "$(noted packages)" ] && [ "$(noted python)" = "$base" ] &&
    has_modules $modules
}

# find_steps: sets todo to the steps still to do.
find_steps() {
  todo=''
  # Operators built once, and a requested torch, are kept.
  [ "$(noted mmcv)" != ops ] || with_ops=ops
  request="${TORCH:-} ${TORCH_NPU:-}"
  [ "$request" != ' ' ] || request=$(noted request)
  if ! has_packages || [ "$request" != "$(noted request)" ]; then
    todo='environment packages mmcv patches'
  elif [ "$(noted packages)" != "$packages_hash" ]; then
    todo='packages mmcv patches'
  elif [ -z "$(noted mmcv)" ] || ! has_modules mmcv mmpose xtcocotools ||
    { [ "$with_ops" ] && [ "$(noted mmcv)" != ops ]; }; then
    todo='mmcv patches'
  elif [ "$(noted patches)" != "$patches_hash" ]; then
    todo='patches'
  fi
  # After the checkout was moved, only the package is installed again.
  case $todo in
    *environment*) todo+=' package' ;;
    *) [ "$(noted package)" = "$package" ] || todo+=' package' ;;
  esac
}

# choose_base: sets base to the Python to use: $PYTHON, else the one recorded,
# else the first supported one.
choose_base() {
  base=$(noted python)
  if [ -n "${PYTHON:-}" ] || [ -z "$(probe_python "${base#* }")" ]; then
    base=$(choose_python)
  fi
  # If .venv itself is active, use the Python that it was made from.
  case ${base#* } in
    "$VENV"/*)
      local home
      home=$(sed -n 's/^home = //p' "$VENV/pyvenv.cfg")
      base="${base%% *} $home/python${base%% *}"
      ;;
  esac
}

# choose_torch PYTHON MACHINE [-S]: sets torch and torch_npu to 'SOURCE VERSION'
# and says why; see npu_host.py. With -S, packages of this host do not count.
choose_torch() {
  local answer
  answer=$(PYTHONDONTWRITEBYTECODE=1 "${base#* }" ${3:+"$3"} \
    "$ROOT/scripts/npu_host.py" --python "$1" --machine "$2" \
    --torch="${request%% *}" --torch-npu="${request#* }") || exit
  torch=$(sed -n 's/^torch //p' <<<"$answer")
  torch_npu=$(sed -n 's/^torch_npu //p' <<<"$answer")
  case $torch,$torch_npu in
    host*,host*)
      say "using torch ${torch#* } and torch_npu ${torch_npu#* } of ${base#* }"
      ;;
    host*) say "using torch ${torch#* } of ${base#* }" ;;
  esac
  sed -n 's/^say //p' <<<"$answer" | while read -r line; do say "$line"; done
}

# describe: prints what would be done.
describe() {
  say "Python ${base%% *}, ${base#* }"
  case $todo in
    *packages*)
      describe_one torch "$torch"
      [ -z "$torch_npu" ] || describe_one torch_npu "$torch_npu"
      ;;
  esac
  say "steps to do in $VENV: ${todo:-none}"
}

describe_one() {
  case $2 in
    host*) say "$1 ${2#* }: already installed" ;;
    install*) say "$1 ${2#* }: would be installed" ;;
    default*) say "$1: would be installed from $torch_requirements" ;;
  esac
}

# prepare: locks the environment's folder for this run; refuses a folder that
# another program made, because set-up may empty it.
prepare() {
  if [ -e "$VENV" ] && [ ! -d "$state" ] && [ -n "$(ls -A -- "$VENV")" ]; then
    refuse "$VENV exists and was not made by this script; remove it, or set" \
      'VENV to another folder'
  fi
  { mkdir -p "$state" && [ -w "$state" ]; } 2>/dev/null ||
    refuse "$VENV cannot be written to: name another folder with VENV="
  # pip inherits the lock, so that no other set-up starts while a pip that
  # outlived its set-up still writes.
  exec 9>"$state/lock"
  if command -v flock >/dev/null && ! flock --nonblock 9; then
    say "another set-up is running in $VENV; waiting for it"
    flock 9
  fi
}

package="$ROOT/mmpose-master $(hash_of "$ROOT/mmpose-master/pyproject.toml")"
mapfile -t changes < <(
  find "$ROOT"/mmcv_need "$ROOT"/mmpose-master/mmpose_need \
    "$ROOT"/scripts/patch* -type f \( -name '*.py' -o -name '*.json' \) |
    LC_ALL=C sort
)
packages_hash=$(hash_of "$requirements" "$source_requirements" \
  "$mmcv_requirements" "$build_requirements" "$torch_requirements" \
  "$npu_requirements" "$ROOT/scripts/packages.sh")
patches_hash=$(hash_of "${changes[@]}")

if [ "$mode" = from ] && [ -z "${PYTHON:-}$(noted python)" ]; then
  # The Python that the packages are for.
  for name in "$folder"/for-*-"$(uname -m)"; do
    name=${name##*/for-}
    if find_python "python${name%%-*}" >/dev/null; then
      PYTHON=python${name%%-*}
    fi
  done
fi
choose_base
if [ "$mode" = download ]; then
  target=${target:-${base%% *}-$(uname -m)}
  request="${TORCH:-} ${TORCH_NPU:-}"
  { mkdir -p "$folder" && [ -w "$folder" ]; } 2>/dev/null ||
    refuse "$folder cannot be written to"
  rm -rf "$folder/.tools"
  choose_torch "${target%%-*}" "${target#*-}" -S
  configure_pip "${base#* }"
  start_log "$folder/download.log" "$folder"
  step 1/1 "packages for Python ${target%%-*} on ${target#*-} into $folder" \
    fetch_packages
  rm -rf "$folder/.tools"
  case $torch in default*) torch='' ;; esac
  printf '%s %s\n' "${torch#* }" "${torch_npu##*[ /]}" >"$folder/for-$target"
  say "copy $folder to the other host, and run there:" \
    'bash scripts/setup.sh --from DIR'
  exit
fi
if [ "$mode" = from ]; then use_folder; fi
find_steps
case $todo in *packages*) choose_torch "${base%% *}" "$(uname -m)" ;; esac
if [ "$dry_run" ]; then
  describe
  exit
fi
if [ -n "$todo" ]; then
  prepare
  find_steps
  start_log "$state/setup.log" "$VENV"
  # pip unpacks into folders there. If it is killed, the next run clears them.
  export TMPDIR=$state/tmp
  rm -rf "$TMPDIR"
  mkdir "$TMPDIR"
fi
for name in $todo; do
  case $name in
    environment)
      step 1/5 "$VENV with Python ${base%% *}" make_environment
      ;;
    packages)
      configure_pip "$py"
      step 2/5 'the required packages' install_packages
      case $torch in
        host*) text="torch ${torch#* } of ${base#* }" ;;
        install*) text=$(describe_torch "${torch#* }") ;;
        *) text=$(describe_torch '') ;;
      esac
      step 2/5 "$text" install_torch
      ;;
    mmcv)
      configure_pip "$py"
      step 3/5 "mmcv 1.2.7${with_ops:+ with its operators} and mmpose 0.8.0" \
        install_mmcv
      ;;
    patches) step 4/5 'the changes to mmcv and mmpose' apply_patches ;;
    package)
      configure_pip "$py"
      step 5/5 'hourglass_npu and its command, hourglass' install_package
      ;;
  esac
done
if [ -n "$todo" ]; then
  rm -rf "$TMPDIR"
  unset TMPDIR
fi
# Report what else would prevent training; this is no failure of set-up.
[ -z "$todo" ] || "$py" "$ROOT/scripts/doctor.py" --brief >&2 || true
if [ -n "$todo" ] || [ -z "$if_needed" ]; then
  say "ready: $VENV ($("$py" -V 2>&1))"
fi
