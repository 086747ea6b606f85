#!/usr/bin/env bash
# Trains on several devices; the name is mmpose's.
#
# usage: [PORT=P] bash tools/dist_train.sh CONFIG N [options of train.py]
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac
if [ $# -lt 2 ]; then
  echo 'dist_train.sh: error: CONFIG and N are missing; see --help' >&2
  exit 2
fi
export MASTER_PORT=${MASTER_PORT:-${PORT:-}}
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/launch.sh" \
  train "$2" "$1" "${@:3}"
