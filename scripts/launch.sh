#!/usr/bin/env bash
# Starts mmpose-master/tools/{train,test}.py with one process per device.
#
# usage: bash scripts/launch.sh train NPROC CONFIG [options of train.py]
#        bash scripts/launch.sh test NPROC CONFIG CHECKPOINT [options of test.py]
#
#   NNODES=N NODE_RANK=I MASTER_ADDR=HOST [MASTER_PORT=P]
#       train on N hosts: run the same command on each, with I from 0 to N-1
#   --rdzv-*, --max-restarts, --monitor-interval, --local-addr
#       passed to torch's elastic launcher, which also takes NNODES=MIN:MAX
#   OMP_NUM_THREADS
#       CPU threads per process (default: cores of the host / NPROC)
#   OMP_WAIT_POLICY
#       how these threads wait for each other (default: PASSIVE, with
#       GOMP_SPINCOUNT=2000; by hourglass_npu/cli.py, for every command)
#
# Example: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 \
#          bash scripts/launch.sh train 8 CONFIG.py
#
# SIGTERM, SIGINT, SIGHUP: save and stop, status 143, 130 or 129; a second one
# stops at once. SIGUSR1: save and continue. Otherwise the exit status is that
# of the process, or of the first process that failed. If this script is
# killed, all processes end.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "$(readlink -f -- "$0")")/common.sh"

case ${1:-} in
  -h | --help)
    show_help
    exit
    ;;
  train | test) ;;
  *) refuse "expected train or test, not '${1:-}'; see --help" ;;
esac
[ $# -ge 3 ] || refuse 'NPROC and CONFIG are missing; see --help'
program=$ROOT/mmpose-master/tools/$1.py
nproc=$2
shift 2
is_count "$nproc" || refuse "NPROC=$nproc: must be a whole number, at least 1"

# Separate the options of torch's launcher from those of the program.
elastic=()
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --rdzv[-_]*=* | --max[-_]restarts=* | --monitor[-_]interval=* | \
      --local[-_]addr=*)
      elastic+=("$1")
      ;;
    --rdzv[-_]* | --max[-_]restarts | --monitor[-_]interval | --local[-_]addr)
      [ $# -gt 1 ] || refuse "$1 needs a value"
      elastic+=("$1=$2")
      shift
      ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

ensure_setup
# shellcheck disable=SC2034 # read in env.sh
_hg_quiet=yes
# shellcheck source=env.sh
source "$ROOT/env.sh"

# The programs import torch_npu when they need it; torch's launcher does not.
export TORCH_DEVICE_BACKEND_AUTOLOAD=${TORCH_DEVICE_BACKEND_AUTOLOAD:-0}

nnodes=${NNODES:-1}
if [ "$nproc" = 1 ] && [ "$nnodes" = 1 ] && [ -z "${elastic[*]-}" ]; then
  exec "$PY" "$program" "${arguments[@]}"
fi

# Check the command line here, so that a mistake is reported once and not by
# every process.
HOURGLASS_NPROC=$nproc "$PY" "$program" --check-request "${arguments[@]}"

# Find a free port, and whether this torch has the elastic launcher.
probe=$("$PY" - <<'PY'
import importlib.util
import os
import socket

spec = importlib.util.find_spec('torch')
run = os.path.join(os.path.dirname(spec.origin), 'distributed', 'run.py')
with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    print(free.getsockname()[1], os.path.exists(run))
PY
)
options=("--nproc_per_node=$nproc" "--nnodes=$nnodes")
case $nnodes,${elastic[*]-} in
  *rdzv*) ;; # these options say how the processes find each other
  1,*)
    options+=("--master_addr=${MASTER_ADDR:-127.0.0.1}")
    options+=("--master_port=${MASTER_PORT:-${probe% *}}")
    ;;
  *:*) refuse "NNODES=$nnodes needs --rdzv-backend and --rdzv-endpoint" ;;
  *)
    is_count "$nnodes" ||
      refuse "NNODES=$nnodes: must be a whole number, at least 1"
    [ -n "${MASTER_ADDR:-}" ] && [ -n "${NODE_RANK:-}" ] ||
      refuse "NNODES=$nnodes needs MASTER_ADDR (address of the first host)" \
        'and NODE_RANK (number of this host, from 0)'
    options+=("--node_rank=$NODE_RANK" "--master_addr=$MASTER_ADDR")
    options+=("--master_port=${MASTER_PORT:-29500}")
    ;;
esac
if [ "${probe#* }" = True ]; then
  launcher=torch.distributed.run
  # Check the processes every second, so that a dead one ends the job soon.
  case ${elastic[*]-} in
    *monitor*) ;;
    *) elastic+=(--monitor_interval=1) ;;
  esac
else
  launcher=torch.distributed.launch
  [ -z "${elastic[*]-}" ] ||
    refuse "${elastic[0]%%=*} needs torch 1.9 or later"
  options+=(--use_env)
fi

if [ -z "${OMP_NUM_THREADS:-}" ]; then
  threads=$(($(nproc) / nproc))
  export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi

# Send signals to the ranks of this host, not to torch's launcher, which would
# give them little or no time to save.
# shellcheck disable=SC2329 # wait_for calls it
pass_on() {
  local ranks
  ranks=$(children_of "$child")
  if [ -n "$ranks" ]; then
    # shellcheck disable=SC2086 # one word for each
    kill -s "$1" $ranks 2>/dev/null || true
  elif [ "$1" != USR1 ]; then
    kill -s "$1" "$child" 2>/dev/null || true
  fi
}
wait_for "$PY" "$ROOT/scripts/ranks.py" "$launcher" "${options[@]}" \
  ${elastic[@]+"${elastic[@]}"} "$program" "${arguments[@]}" \
  --launcher pytorch
