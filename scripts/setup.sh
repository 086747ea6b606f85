#!/usr/bin/env bash
# Makes the virtual environment that everything else runs in.
#
# usage: bash scripts/setup.sh [--with-ops] [--if-needed] [--dry-run]
#
#   --with-ops   build mmcv-full's operators too (10 to 20 minutes; mmpose
#                0.8.0 does not use them)
#   --if-needed  say nothing if all is done already
#   --dry-run    say what would be done, and do nothing
#   VENV=DIR     where it goes (default: .venv in the bundle's folder)
#   PYTHON=NAME  what it is made from: Python 3.7 or 3.9 to 3.12 (default:
#                what is there, else python3)
#   TORCH=VERSION, TORCH_NPU=VERSION
#                what to install in place of what is chosen; TORCH_NPU also
#                takes the path of a wheel, and 'none'
#
# A torch (and torch_npu) that this Python has already is used as it is. Where
# there is CANN and no torch_npu, the two are chosen for that CANN by Ascend's
# published matrix. A run that was broken off is repaired by the next one.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

with_ops=''
if_needed=''
dry_run=''
for option; do
  case $option in
    -h | --help)
      show_help
      exit
      ;;
    --with-ops) with_ops=ops ;;
    --if-needed) if_needed=yes ;;
    --dry-run) dry_run=yes ;;
    *) refuse "unknown option $option; --help lists all" ;;
  esac
done

# What has been finished is noted in this folder, one file for each step:
#   python    version and path of the interpreter it was made from
#   request   what TORCH and TORCH_NPU were
#   packages  hash of the requirements that are installed
#   mmcv      'plain' or 'ops': mmcv and mmpose are installed
#   patches   hash of the changes that are applied to them
#   package   folder of hourglass_npu, which is installed editable
# A file is removed before its step begins, so what is not noted is not whole.
# Packages that are not whole are not repaired but installed afresh: pip takes
# for whole what it has left half-written.
state=$VENV/.setup
py=$VENV/bin/python
# Made by lock.sh from the .txt files beside them. torch is not among them: it
# comes from the host, or from the index for the host's kind of accelerator.
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

# has_modules NAME...: whether they can be found; imports none of them.
has_modules() {
  "$py" - "$@" <<'PY' 2>/dev/null
import importlib.util
import sys

sys.exit(not all(importlib.util.find_spec(name) for name in sys.argv[1:]))
PY
}

# has_packages: whether an installation of packages has once been finished, and
# nothing is missing since.
has_packages() {
  # shellcheck disable=SC2086 # a list of words
  [ -n "$(noted packages)" ] && [ "$(noted python)" = "$base" ] &&
    has_modules $modules
}

# find_steps: sets todo to the steps that are left.
find_steps() {
  todo=''
  # Whoever has had the operators built once keeps them, and the torch that he
  # has asked for.
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
  # A checkout that was moved needs its package, not its packages, again.
  if [ "$todo" ] || [ "$(noted package)" != "$package" ]; then
    todo+=' package'
  fi
}

# What the environment is made from: what was asked for, else what it has been
# made from, else what is there.
choose_base() {
  base=$(noted python)
  if [ -n "${PYTHON:-}" ] || [ -z "$(probe_python "${base#* }")" ]; then
    base=$(choose_python)
  fi
  # An activated .venv is no base for itself.
  case ${base#* } in
    "$VENV"/*)
      local home
      home=$(sed -n 's/^home = //p' "$VENV/pyvenv.cfg")
      base="${base%% *} $home/python${base%% *}"
      ;;
  esac
}

# Sets torch and torch_npu to 'WHENCE VERSION' and says why, see npu_host.py.
choose_torch() {
  local answer
  answer=$(PYTHONDONTWRITEBYTECODE=1 "${base#* }" "$ROOT/scripts/npu_host.py" \
    --python "${base%% *}" --machine "$(uname -m)" --torch="${request%% *}" \
    --torch-npu="${request#* }") || exit
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

make_environment() {
  local flags=()
  rm -f "$state"/{packages,mmcv,patches,package}
  [ "${torch%% *}" != host ] || flags=(--system-site-packages)
  say "[1/5] making ${VENV} with Python ${base%% *}"
  # Only what this script has made gets here, see prepare().
  find "$VENV" -mindepth 1 -maxdepth 1 ! -name .setup -exec rm -rf {} +
  note python "$base"
  note request "$request"
  "${base#* }" -m venv ${flags[@]+"${flags[@]}"} "$VENV" ||
    die "${base#* } cannot make virtual environments (on Debian and Ubuntu:" \
      "apt-get install python${base%% *}-venv)"
  site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # A base that is a virtual environment itself hands on only what lies below.
  if [ "${torch%% *}" = host ] && ! has_modules torch; then
    "${base#* }" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
      >"$site/host-packages.pth"
  fi
}

install_packages() {
  rm -f "$state/packages"
  say '[2/5] installing the required packages'
  "$py" -m pip install -r "$build_requirements"
  "$py" -m pip install -r "$requirements"
  case $torch in
    install*) "$py" -m pip install "torch==${torch#* }" ;;
    default*) "$py" -m pip install -r "$torch_requirements" ;;
  esac
  case $torch_npu in
    install*) install_torch_npu "${torch_npu#* }" ;;
  esac
  note packages "$packages_hash"
}

install_torch_npu() {
  local wheel=$1
  [[ $wheel = *.whl ]] || wheel=torch_npu==$wheel
  # Without its dependencies: on x86-64 it may ask for the +cpu build of its
  # torch by name, which few package indexes have.
  "$py" -m pip install --no-deps "$wheel" ||
    die "pip does not get $wheel for Python ${base%% *}. Take its wheel from" \
      'the releases of torch_npu by Ascend and name it: TORCH_NPU=/PATH/OF.whl'
  "$py" -m pip install -r "$npu_requirements"
}

install_mmcv() {
  rm -f "$state"/{mmcv,patches}
  # Of a broken installation pip may believe that it is whole.
  rm -rf "$site"/mm{cv,pose} "$site"/mm{cv,cv_full,pose}-*.dist-info \
    "$site"/xtcocotools*
  # torch_npu must not load itself while mmcv's setup.py imports torch.
  local -x TORCH_DEVICE_BACKEND_AUTOLOAD=0
  if [ "$with_ops" ]; then
    say '[3/5] building mmcv 1.2.7 with its operators, and mmpose 0.8.0'
    install_mmcv_full
  else
    say '[3/5] installing mmcv 1.2.7 and mmpose 0.8.0'
    MMCV_WITH_OPS=0 "$py" -m pip install --ignore-installed --no-deps \
      --no-build-isolation --no-binary mmcv -r "$mmcv_requirements"
  fi
  "$py" -m pip install --no-deps --no-build-isolation -r "$source_requirements"
  note mmcv "${with_ops:-plain}"
}

# The operators need an edit of their source before they compile.
install_mmcv_full() {
  local build=$state/build
  rm -rf "$build"
  mkdir "$build"
  "$py" -m pip download --no-deps --no-build-isolation --no-binary mmcv \
    --dest "$build" -r "$mmcv_requirements"
  tar -xzf "$build"/mmcv-1.2.7.tar.gz -C "$build"
  "$py" "$ROOT/scripts/patches.py" apply --mmcv "$build/mmcv-1.2.7"
  # -v: it takes long, and otherwise shows nothing. ninja is in bin/.
  PATH="$VENV/bin:$PATH" MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
    "$py" -m pip install -v --ignore-installed --no-deps \
    --no-build-isolation "$build/mmcv-1.2.7"
  # What the tool keeps of the originals belongs to what it has changed.
  cp -r "$build/mmcv-1.2.7/mmcv/.originals" "$site/mmcv/"
  rm -rf "$build"
}

apply_patches() {
  rm -f "$state/patches"
  say '[4/5] applying the changes to mmcv and mmpose'
  "$py" "$ROOT/scripts/patches.py" apply
  note patches "$patches_hash"
}

install_package() {
  rm -f "$state/package"
  say '[5/5] installing hourglass_npu and its command, hourglass'
  "$py" -m pip install --no-deps --no-build-isolation \
    --editable "$ROOT/mmpose-master"
  note package "$package"
}

# Says what would be done.
describe() {
  say "Python ${base%% *}, ${base#* }"
  case $todo in
    *packages*)
      describe_one torch "$torch"
      [ -z "$torch_npu" ] || describe_one torch_npu "$torch_npu"
      ;;
  esac
  say "steps that are left in $VENV: ${todo:-none}"
}

describe_one() {
  case $2 in
    host*) say "$1 ${2#* }: there already" ;;
    install*) say "$1 ${2#* }: would be installed" ;;
    default*) say "$1: would be installed as $torch_requirements says" ;;
  esac
}

# Opens the environment's folder to this run alone; refuses one of somebody
# else, for it could be emptied.
prepare() {
  if [ -e "$VENV" ] && [ ! -d "$state" ] && [ -n "$(ls -A -- "$VENV")" ]; then
    refuse "$VENV is there, and this script has not made it; remove it, or" \
      'name another place with VENV='
  fi
  mkdir -p "$state"
  # pip inherits the lock: while one that outlived its set-up still writes,
  # nobody else does.
  exec 9>"$state/lock"
  if command -v flock >/dev/null && ! flock --nonblock 9; then
    say "another set-up is at work in $VENV; waiting for it"
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
  "$npu_requirements" "${BASH_SOURCE[0]}")
patches_hash=$(hash_of "${changes[@]}")

choose_base
find_steps
case $todo in *packages*) choose_torch ;; esac
if [ "$dry_run" ]; then
  describe
  exit
fi
if [ -n "$todo" ]; then
  prepare
  find_steps
  trap '[ "$?" = 0 ] || say "not finished; run it again to go on"' EXIT
  # Settings of pip that would lead it out of the environment.
  unset PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
fi
site=$(echo "$VENV"/lib/python*/site-packages)
for step in $todo; do
  case $step in
    environment) make_environment ;;
    packages) install_packages ;;
    mmcv) install_mmcv ;;
    patches) apply_patches ;;
    package) install_package ;;
  esac
done
# What else is in the way of training; no reason to fail.
[ -z "$todo" ] || "$py" "$ROOT/scripts/doctor.py" --brief >&2 || true
if [ -n "$todo" ] || [ -z "$if_needed" ]; then
  say "ready: $VENV ($("$py" -V 2>&1))"
fi
