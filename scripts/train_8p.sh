#!/usr/bin/env bash
# Trains on eight devices, with one process for each.
#
# usage: bash scripts/train_8p.sh [--sample] [--config C] [options of train.py]
#
#   --sample    draw a small data set if there is none, train the small model
#               on it, and evaluate: needs no download
#   --config C  what to train (default: hourglass52_mpii_384x384.py)
#   NPROC=N     another number of devices
#
# For several hosts see scripts/launch.sh --help, for the options of train.py
# python3 mmpose-master/tools/train.py --help
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
train "${NPROC:-8}" "$@"
