# shellcheck shell=bash
# Prepares a shell for an Ascend NPU: source env.sh (bash or zsh).
#
# Finds CANN and sets variables for training on NPUs; variables that are
# already set keep their values. Without CANN it sets none of them.
# Also activates .venv (or $VENV) if it exists.
#
# CANN_SYSROOT is a prefix for /etc and /usr, for a CANN mounted elsewhere.

_hg_prefer() { # NAME VALUE: sets an environment variable that is not set
  eval "_hg_value=\${$1+set}"
  if [ -z "$_hg_value" ]; then
    eval "export $1=\$2"
  fi
}

_hg_find_cann() { # sets _hg_cann to the path of CANN's set_env.sh, or empty
  _hg_cann=''
  _hg_info=${CANN_SYSROOT-}/etc/Ascend/ascend_cann_install.info
  _hg_root=''
  if [ -r "$_hg_info" ]; then
    _hg_root=$(sed -n 's/^Install_Path=//p' "$_hg_info" | head -n 1)
    _hg_root=${_hg_root%/}
  fi
  # The path that the installer recorded, root's default, a user's default.
  # Prefer the toolkit to the run time alone.
  for _hg_root in "$_hg_root" "${CANN_SYSROOT-}/usr/local/Ascend" \
    "${HOME-}/Ascend"; do
    for _hg_cann in "$_hg_root/ascend-toolkit/set_env.sh" \
      "$_hg_root/cann/set_env.sh" "$_hg_root/nnae/set_env.sh"; do
      if [ -n "$_hg_root" ] && [ -r "$_hg_cann" ]; then
        return 0
      fi
    done
  done
  _hg_cann=''
}

_hg_source_cann() { # sources CANN's script, which fails under set -e or set -u
  case $- in *e*) _hg_e=e ;; *) _hg_e='' ;; esac
  case $- in *u*) _hg_u=u ;; *) _hg_u='' ;; esac
  set +eu
  # shellcheck source=/dev/null
  . "$_hg_cann"
  if [ -n "$_hg_e" ]; then set -e; fi
  if [ -n "$_hg_u" ]; then set -u; fi
}

_hg_set_npu() {
  # Log errors only, today's default of CANN; at a lower level nearly every
  # operator writes a line.
  _hg_prefer ASCEND_GLOBAL_LOG_LEVEL 3
  if [ "${ASCEND_LAUNCH_BLOCKING-}" = 1 ]; then
    # For debugging: run one operator at a time.
    _hg_prefer TASK_QUEUE_ENABLE 0
  else
    # Prepare and launch operators in two threads, so that the chip does not
    # wait for the host; 2 is the recommended level.
    _hg_prefer TASK_QUEUE_ENABLE 2
  fi
  # Ranks compile operators at the first step and finish at different times;
  # the default of 120 seconds is too short for that.
  _hg_prefer HCCL_CONNECT_TIMEOUT 1200
  # Disable the list of permitted hosts: HCCL requires one otherwise.
  _hg_prefer HCCL_WHITELIST_DISABLE 1
  # Keep each rank on the cores near its chip.
  _hg_prefer CPU_AFFINITY_CONF 1
}

_hg_find_cann
if [ -n "$_hg_cann" ]; then
  # Run CANN's script only once, because it extends the paths each time.
  if [ -z "${ASCEND_TOOLKIT_HOME-}${ASCEND_OPP_PATH-}${HOURGLASS_CANN-}" ]; then
    _hg_source_cann
    export HOURGLASS_CANN="$_hg_cann"
  fi
  _hg_set_npu
elif [ -n "${ASCEND_TOOLKIT_HOME-}${ASCEND_OPP_PATH-}" ]; then
  # CANN is installed elsewhere and its environment is already set.
  _hg_set_npu
fi

# Not by the environment's activate script, which under Python 3.7 fails with
# set -u.
if [ -n "${ZSH_VERSION-}" ]; then
  eval '_hg_self=${(%):-%x}'
else
  _hg_self=${BASH_SOURCE[0]}
fi
_hg_venv=${VENV:-$(cd -- "$(dirname -- "$_hg_self")" && pwd -P)/.venv}
if [ -x "$_hg_venv/bin/python" ]; then
  _hg_venv=$(cd -- "$_hg_venv" && pwd)
  export VIRTUAL_ENV="$_hg_venv"
  case $PATH in
    "$_hg_venv/bin" | "$_hg_venv/bin":*) ;;
    *) export PATH="$_hg_venv/bin:$PATH" ;;
  esac
fi

unset _hg_value _hg_cann _hg_info _hg_root _hg_e _hg_u _hg_self _hg_venv
unset -f _hg_prefer _hg_find_cann _hg_source_cann _hg_set_npu
