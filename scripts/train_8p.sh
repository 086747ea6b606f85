#!/usr/bin/env bash
# Trains on eight devices, one process per device.
#
# usage: bash scripts/train_8p.sh [--sample] [--config C] [options of train.py]
#
#   --sample    create a small synthetic data set, train a small model on it
#               and evaluate it: needs no data
#   --config C  config to train (default: hourglass52_mpii_384x384.py)
#   NPROC=N     train on N devices instead
#
# Several hosts:       bash scripts/launch.sh --help
# Examples: bash scripts/train_8p.sh --resume-from auto
#           NPROC=2 bash scripts/train_8p.sh --sample
#
# Options of train.py: python3 mmpose-master/tools/train.py --help
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"
train "${NPROC:-8}" "$@"
