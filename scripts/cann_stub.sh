#!/usr/bin/env bash
# Runs a command on a host that seems to have eight Ascend NPUs: the real
# torch_npu on a stand-in for CANN. No card is needed.
#
# usage: bash scripts/cann_stub.sh [--torch-npu VERSION] COMMAND...
#
#   --torch-npu VERSION  in place of the newest torch_npu for this torch
#   CANN_STUB_SOC=CHIP   Ascend910A, Ascend910B3 (default), Ascend310P3, ...
#   CANN_STUB_LOG=DIR    a report of each process: operators, waits, memory
#
# Example: bash scripts/cann_stub.sh bash scripts/train_1p.sh --sample
#
# The first run installs torch_npu in a folder of its own and compiles the
# stand-in: about a minute. docs/CANN_STUB.md says what is real about it.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"

options=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      show_help
      exit
      ;;
    --torch-npu)
      [ $# -gt 1 ] || refuse "$1 needs a value"
      options+=("$1" "$2")
      shift
      ;;
    --torch-npu=*) options+=("$1") ;;
    -*) refuse "unknown option $1; --help lists all" ;;
    *) break ;;
  esac
  shift
done
[ $# -gt 0 ] || refuse 'a command is missing; --help says more'

ensure_setup
variables=$(PYTHONDONTWRITEBYTECODE=1 "$PY" \
  "$ROOT/tests/cann_stub/build.py" --show ${options[@]+"${options[@]}"})
while IFS= read -r variable; do
  export "${variable?}"
done <<<"$variables"
# shellcheck disable=SC2034 # read in env.sh
_hg_quiet=yes
# shellcheck source=env.sh
source "$ROOT/env.sh"
exec "$@"
