#!/usr/bin/env bash
# Rewrites the lock files after a requirements file has changed. They list each
# package and its dependencies, for Python 3.7 and 3.9 to 3.13 (see
# pyproject.toml), with the hashes of the files for all machine types.
#
# usage: bash scripts/lock.sh [--upgrade]
#
#   --upgrade  take newer releases of packages that are not pinned
#
# Example: bash scripts/lock.sh --upgrade
#
# Needs uv (pip install uv). Add new packages to docs/LICENSES.md; a test
# compares the two.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"

upgrade=()
for option; do
  case $option in
    -h | --help)
      show_help
      exit
      ;;
    --upgrade) upgrade=(--upgrade) ;;
    *) refuse "unknown option $option; --help lists all" ;;
  esac
done
command -v uv >/dev/null || refuse 'uv is not on PATH: pip install uv'

# lock NAME [OPTION...]: writes NAME.lock from NAME.txt.
lock() {
  local name=$1
  shift
  uv pip compile --quiet --universal --python-version 3.7 --generate-hashes \
    --no-annotate --no-emit-index-url --no-emit-find-links \
    --custom-compile-command 'bash scripts/lock.sh' \
    ${upgrade[@]+"${upgrade[@]}"} "$@" "$name.txt" --output-file "$name.lock"
}

cd -- "$ROOT"
lock mmpose-master/requirements
lock mmpose-master/requirements-source --no-deps
lock tests/requirements --constraints mmpose-master/requirements.lock
lock scripts/requirements-npu --constraints mmpose-master/requirements.lock
lock scripts/requirements-mmcv --no-deps
lock scripts/requirements-build --no-deps
