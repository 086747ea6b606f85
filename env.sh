# shellcheck shell=bash disable=SC2015
# Prepares a shell for an Ascend NPU: source env.sh (bash or zsh).
#
# Finds CANN and sets variables for training on NPUs; variables that are
# already set keep their values. Without CANN it sets none of them.
# Also activates .venv (or $VENV) if it exists.
#
# CANN_SYSROOT is a prefix for /etc and /usr, for a CANN mounted elsewhere.

# Every shell, fish included, must be able to read this file, so that it can say
# which shells it is for: the rest is in scripts/environment.sh.
type shopt >/dev/null 2>&1 || type setopt >/dev/null 2>&1 && eval '
_hg_self=${BASH_SOURCE-}
_hg_run=""
if [ -n "${ZSH_VERSION-}" ]; then
  eval "_hg_self=\${(%):-%x}"
  case $ZSH_EVAL_CONTEXT in *file*) ;; *) _hg_run=yes ;; esac
else
  (return 0) 2>/dev/null || _hg_run=yes
fi
if [ "$_hg_run" ]; then
  echo "env.sh: this shell ends at once; type: source $_hg_self" >&2
  exit 2
fi
_hg_root=$(dirname -- "$(readlink -f -- "$_hg_self")")
unset _hg_self _hg_run
. "$_hg_root/scripts/environment.sh"
true' || echo "env.sh: source it in bash or zsh; nothing is activated" >&2
