#!/usr/bin/env bash
# Evaluates a checkpoint on the validation set and prints a PCKh table.
#
# usage: bash scripts/eval.sh [N] [--sample] [--checkpoint K | --onnx FILE]
#                             [--config C] [options of test.py]
#
#   N               number of devices (default: 8)
#   --sample        evaluate the sample model on the sample data set
#   --checkpoint K  checkpoint to evaluate (default: latest.pth in the work
#                   folder of the config)
#   --onnx FILE     evaluate an ONNX file of pytorch2onnx.py with ONNX Runtime
#   --config C      config of the model (default:
#                   hourglass52_mpii_384x384.py)
#
# Options of test.py: python3 mmpose-master/tools/test.py --help
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"
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
