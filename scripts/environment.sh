# shellcheck shell=bash
# What env.sh does in bash and zsh. _hg_root is the checkout; with _hg_quiet it
# does not matter that there is no environment.

_hg_prefer() { # NAME VALUE: sets an environment variable that is not set
  eval "_hg_value=\${$1+set}"
  if [ -z "$_hg_value" ]; then
    eval "export $1=\$2"
  fi
}

_hg_find_cann() { # sets _hg_cann to the path of CANN's set_env.sh, or empty
  _hg_cann=''
  _hg_info=${CANN_SYSROOT-}/etc/Ascend/ascend_cann_install.info
  _hg_place=''
  if [ -r "$_hg_info" ]; then
    _hg_place=$(sed -n 's/^Install_Path=//p' "$_hg_info" | head -n 1)
    _hg_place=${_hg_place%/}
  fi
  # The path that the installer recorded, root's default, a user's default.
  # Prefer the toolkit to the run time alone.
  for _hg_place in "$_hg_place" "${CANN_SYSROOT-}/usr/local/Ascend" \
    "${HOME-}/Ascend"; do
    for _hg_cann in "$_hg_place/ascend-toolkit/set_env.sh" \
      "$_hg_place/cann/set_env.sh" "$_hg_place/nnae/set_env.sh"; do
      if [ -n "$_hg_place" ] && [ -r "$_hg_cann" ]; then
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
_hg_venv=${VENV:-$_hg_root/.venv}
case $_hg_venv in
  /*) ;;
  *) _hg_venv=$PWD/$_hg_venv ;;
esac
if [ -x "$_hg_venv/bin/python" ]; then
  export VIRTUAL_ENV="$_hg_venv"
  # It names the library of another Python.
  unset PYTHONHOME
  case $PATH in
    "$_hg_venv/bin" | "$_hg_venv/bin":*) ;;
    *) export PATH="$_hg_venv/bin:$PATH" ;;
  esac
elif [ -z "${_hg_quiet-}" ]; then
  echo "env.sh: nothing is activated: there is no $_hg_venv;" \
    "bash $_hg_root/scripts/setup.sh makes it" >&2
fi

unset _hg_value _hg_cann _hg_info _hg_place _hg_e _hg_u _hg_venv _hg_root
unset _hg_quiet
unset -f _hg_prefer _hg_find_cann _hg_source_cann _hg_set_npu
