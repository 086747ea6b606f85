#!/usr/bin/env bash
# Trains on one device.
#
# usage: bash scripts/train_1p.sh [--sample] [--config C] [options of train.py]
#
#   --sample    draw a small data set if there is none, train the small model
#               on it, and evaluate: needs no download, some minutes on a CPU
#   --config C  what to train (default: hourglass52_mpii_384x384.py)
#
# For the options of train.py see python3 mmpose-master/tools/train.py --help
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
train 1 "$@"
