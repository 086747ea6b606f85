# shellcheck shell=bash
# Prepares a shell for an Ascend NPU: source env.sh (bash or zsh).
#
# Finds CANN and sets the variables that training on NPUs wants; whatever is
# set already stays as it is. Where there is no CANN none of this is set.
# Also activates the bundle's .venv (VENV= names another) if it has been made.
#
# CANN_SYSROOT is put before /etc and /usr, for a CANN that is mounted
# somewhere else.

_hg_prefer() { # NAME VALUE: the default of an environment variable
  eval "_hg_value=\${$1+set}"
  if [ -z "$_hg_value" ]; then
    eval "export $1=\$2"
  fi
}

_hg_find_cann() { # sets _hg_cann to CANN's own set_env.sh, or to nothing
  _hg_cann=''
  _hg_info=${CANN_SYSROOT-}/etc/Ascend/ascend_cann_install.info
  _hg_root=''
  if [ -r "$_hg_info" ]; then
    _hg_root=$(sed -n 's/^Install_Path=//p' "$_hg_info" | head -n 1)
    _hg_root=${_hg_root%/}
  fi
  # Where the installer says, where root installs, where a user installs. The
  # whole toolkit is preferred to the run time alone.
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

_hg_source_cann() { # CANN's script, which knows neither set -e nor set -u
  case $- in *e*) _hg_e=e ;; *) _hg_e='' ;; esac
  case $- in *u*) _hg_u=u ;; *) _hg_u='' ;; esac
  set +eu
  # shellcheck source=/dev/null
  . "$_hg_cann"
  if [ -n "$_hg_e" ]; then set -e; fi
  if [ -n "$_hg_u" ]; then set -u; fi
}

_hg_set_npu() {
  # Errors only, as CANN does by itself today; at a lower level nearly every
  # operator writes a line.
  _hg_prefer ASCEND_GLOBAL_LOG_LEVEL 3
  if [ "${ASCEND_LAUNCH_BLOCKING-}" = 1 ]; then
    # Somebody is looking for a fault and wants one operator at a time.
    _hg_prefer TASK_QUEUE_ENABLE 0
  else
    # Operators are prepared and launched by two threads, so that the chip
    # does not wait for the host; 2 is the recommended level.
    _hg_prefer TASK_QUEUE_ENABLE 2
  fi
  # Ranks compile operators at the first step and are not done at the same
  # time; the default of 120 seconds is too short for that.
  _hg_prefer HCCL_CONNECT_TIMEOUT 1200
  # There is no list of permitted hosts; with the check on HCCL wants one.
  _hg_prefer HCCL_WHITELIST_DISABLE 1
  # Each rank keeps to the cores near its chip.
  _hg_prefer CPU_AFFINITY_CONF 1
}

_hg_find_cann
if [ -n "$_hg_cann" ]; then
  # CANN's script extends the paths each time that it runs: once is enough.
  if [ -z "${ASCEND_TOOLKIT_HOME-}${ASCEND_OPP_PATH-}${HOURGLASS_CANN-}" ]; then
    _hg_source_cann
    export HOURGLASS_CANN="$_hg_cann"
  fi
  _hg_set_npu
elif [ -n "${ASCEND_TOOLKIT_HOME-}${ASCEND_OPP_PATH-}" ]; then
  # CANN lies elsewhere, and its environment is set already.
  _hg_set_npu
fi

# The activate script of a virtual environment would do, but that of Python
# 3.7 stumbles over set -u.
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
