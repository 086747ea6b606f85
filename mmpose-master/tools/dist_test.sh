#!/usr/bin/env bash
# Evaluates on several devices; the name is mmpose's.
#
# usage: [PORT=P] bash tools/dist_test.sh CONFIG CHECKPOINT N [options of test.py]
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac
if [ $# -lt 3 ]; then
  echo 'dist_test.sh: error: CONFIG, CHECKPOINT and N are missing;' \
    'see --help' >&2
  exit 2
fi
export MASTER_PORT=${MASTER_PORT:-${PORT:-}}
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/launch.sh" \
  test "$3" "$1" "$2" "${@:4}"
