#!/usr/bin/env bash
# Evaluates a checkpoint on the validation people: table of PCKh.
#
# usage: bash scripts/eval.sh [N] [--sample] [--checkpoint K | --onnx FILE]
#                             [--config C] [options of test.py]
#
#   N               number of devices (default: 8)
#   --sample        the small model on the drawn data set
#   --checkpoint K  what to evaluate (default: latest.pth of the training)
#   --onnx FILE     evaluate what pytorch2onnx.py has made, by ONNX Runtime
#   --config C      its config (default: hourglass52_mpii_384x384.py)
#
# For the options of test.py see python3 mmpose-master/tools/test.py --help
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
nproc=${NPROC:-8}
case ${1:-} in
  [0-9]*)
    nproc=$1
    shift
    ;;
esac
read_job "$@"
if [ -n "$sample" ]; then
  ensure_setup
  make_sample
fi
exec bash "$ROOT/scripts/launch.sh" test "$nproc" "$config" \
  ${checkpoint:+"$checkpoint"} ${rest[@]+"${rest[@]}"}
