#!/usr/bin/env bash
# Creates the virtual environment that all commands run in.
#
# usage: bash scripts/setup.sh [--with-ops] [--if-needed] [--dry-run]
#
#   --with-ops   also build mmcv-full's operators (10 to 20 minutes; mmpose
#                0.8.0 does not use them)
#   --if-needed  print nothing if everything is set up already
#   --dry-run    print what would be done; change nothing
#   VENV=DIR     folder of the environment (default: .venv beside README.md)
#   PYTHON=NAME  Python to use: 3.7 or 3.9 to 3.12 (default: that of an
#                existing environment, else python3)
#   TORCH=VERSION, TORCH_NPU=VERSION
#                install these versions; TORCH_NPU also takes the path of a
#                wheel, or 'none'
#
# A torch (and torch_npu) that this Python already has is used as it is. On a
# host with CANN but without torch_npu, both are chosen by Ascend's version
# matrix. If a run is interrupted, the next one repairs it.
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

# choose_torch: sets torch and torch_npu to 'SOURCE VERSION' and says why; see
# npu_host.py.
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
  # prepare() has refused folders that this script did not make.
  find "$VENV" -mindepth 1 -maxdepth 1 ! -name .setup -exec rm -rf {} +
  note python "$base"
  note request "$request"
  "${base#* }" -m venv ${flags[@]+"${flags[@]}"} "$VENV" ||
    die "${base#* } cannot make virtual environments (on Debian and Ubuntu:" \
      "apt-get install python${base%% *}-venv)"
  site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # If the base is itself a virtual environment, --system-site-packages skips
  # its packages.
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
  # Without dependencies: on x86-64 some releases require the +cpu build of
  # torch by name, which few package indexes have.
  "$py" -m pip install --no-deps "$wheel" ||
    die "pip cannot install $wheel for Python ${base%% *}. Download its wheel" \
      "from Ascend's releases of torch_npu and set TORCH_NPU=/PATH/OF.whl"
  "$py" -m pip install -r "$npu_requirements"
}

install_mmcv() {
  rm -f "$state"/{mmcv,patches}
  # pip treats a half-written install as complete.
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

# The source of the operators must be patched before it compiles.
install_mmcv_full() {
  local build=$state/build
  rm -rf "$build"
  mkdir "$build"
  "$py" -m pip download --no-deps --no-build-isolation --no-binary mmcv \
    --dest "$build" -r "$mmcv_requirements"
  tar -xzf "$build"/mmcv-1.2.7.tar.gz -C "$build"
  "$py" "$ROOT/scripts/patches.py" apply --mmcv "$build/mmcv-1.2.7"
  # -v shows progress, as this takes long. ninja is in bin/.
  PATH="$VENV/bin:$PATH" MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
    "$py" -m pip install -v --ignore-installed --no-deps \
    --no-build-isolation "$build/mmcv-1.2.7"
  # Keep the originals beside the installed, patched files.
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
  mkdir -p "$state"
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
  trap '[ "$?" = 0 ] || say "not finished; run it again to continue"' EXIT
  # These settings would make pip install outside the environment.
  unset PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
  # pip unpacks into folders there. If it is killed, the next run clears them.
  export TMPDIR=$state/tmp
  rm -rf "$TMPDIR"
  mkdir "$TMPDIR"
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
if [ -n "$todo" ]; then
  rm -rf "$TMPDIR"
  unset TMPDIR
fi
# Report what else would prevent training; this is no failure of set-up.
[ -z "$todo" ] || "$py" "$ROOT/scripts/doctor.py" --brief >&2 || true
if [ -n "$todo" ] || [ -z "$if_needed" ]; then
  say "ready: $VENV ($("$py" -V 2>&1))"
fi
