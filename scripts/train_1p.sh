#!/usr/bin/env bash
# Trains on one device.
#
# usage: bash scripts/train_1p.sh [--sample] [--config C] [options of train.py]
#
#   --sample    create a small synthetic data set, train a small model on it
#               and evaluate it: needs no data, takes minutes on a CPU
#   --config C  config to train (default: hourglass52_mpii_384x384.py)
#
# Examples: bash scripts/train_1p.sh --sample
#           bash scripts/train_1p.sh --resume-from auto
#
# Options of train.py: python3 mmpose-master/tools/train.py --help
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"
[ "${NPROC:-1}" = 1 ] ||
  say "note: NPROC=$NPROC has no effect: train_8p.sh trains on several devices"
train 1 "$@"
