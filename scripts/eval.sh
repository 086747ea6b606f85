#!/usr/bin/env bash
# Evaluates a checkpoint on the validation set and prints a PCKh table.
#
# usage: bash scripts/eval.sh [N] [--sample] [--checkpoint K | --onnx FILE]
#                             [--config C] [options of test.py]
#
#   N               number of devices (default: 8, or all if there are fewer)
#   --sample        evaluate the sample model on the sample data set
#   --checkpoint K  checkpoint to evaluate (default: latest.pth in the work
#                   folder of the config)
#   --onnx FILE     evaluate an ONNX file of pytorch2onnx.py with ONNX Runtime
#   --om FILE       evaluate a file of onnx2om.sh on NPUs with CANN
#   --config C      config of the model (default:
#                   hourglass52_mpii_384x384.py)
#
# Examples: bash scripts/eval.sh 1 --sample
#           bash scripts/eval.sh --checkpoint best.pth --json scores.json
#
# Options of test.py: python3 mmpose-master/tools/test.py --help
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"
nproc=${NPROC:-}
case ${1:-} in
  [0-9]*)
    nproc=$1
    shift
    ;;
esac
read_job "$@"
ensure_setup
if [ -n "$sample" ]; then make_sample; fi
if [ -z "$nproc" ]; then
  nproc=8
  count=$(count_devices) || count=8
  if [ "$count" = 0 ]; then
    nproc=1
    say 'this host has no NPU or CUDA device: one process evaluates on the CPU'
  elif [ "$count" -lt 8 ]; then
    nproc=$count
    say "evaluating on the $count device(s) of this host, not on 8: the" \
      'scores are the same'
  fi
fi
exec bash "$ROOT/scripts/launch.sh" test "$nproc" "$config" \
  ${checkpoint:+"$checkpoint"} ${rest[@]+"${rest[@]}"}
