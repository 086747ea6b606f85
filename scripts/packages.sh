# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables are shared with setup.sh
# Sourced by setup.sh and tests/run.sh: how packages are fetched and installed.
#
# pip takes from its configuration only where packages come from. Everything
# else there, such as a target folder or constraints, would change what is
# installed, or where.

PIP_SOURCES=' INDEX_URL EXTRA_INDEX_URL FIND_LINKS NO_INDEX TRUSTED_HOST PROXY
  CERT CLIENT_CERT TIMEOUT DEFAULT_TIMEOUT RETRIES CACHE_DIR NO_CACHE_DIR
  KEYRING_PROVIDER USE_FEATURE '

# configure_pip PYTHON: leaves of pip's configuration, in files and variables,
# only PIP_SOURCES, as variables.
configure_pip() {
  local name value
  for name in $(compgen -e PIP_; compgen -e UV_); do
    case $PIP_SOURCES,$name in
      *[[:space:]]"${name#PIP_}"[[:space:]]* | *,PIP_CONFIG_FILE) ;;
      *,UV_*INDEX* | *,UV_FIND_LINKS | *,UV_CACHE_DIR | *,UV_*TIMEOUT) ;;
      *) unset "$name" ;;
    esac
  done
  while IFS='=' read -r name value; do
    case $PIP_SOURCES in
      *[[:space:]]"$name"[[:space:]]*)
        name=PIP_$name
        [ -n "${!name:-}" ] || export "$name=$value"
        ;;
    esac
  done < <(
    # Not by 'pip config list', which takes options from these files as well.
    "$1" - <<'PY' 2>/dev/null
from pip._internal.configuration import Configuration

settings = Configuration(isolated=False)
settings.load()
# [install] counts more than [global].
for key, value in sorted(settings.items(), reverse=True):
    section, _, name = key.partition('.')
    if section in ('global', 'install'):
        print(f'{name.replace("-", "_").upper()}={" ".join(value.split())}')
PY
  )
  export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1
  export PIP_NO_INPUT=1
  # uv does not read pip's.
  if [ -n "${PIP_INDEX_URL:-}" ]; then
    export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}
  fi
  if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then
    export UV_INDEX=${UV_INDEX:-$PIP_EXTRA_INDEX_URL}
  fi
  if [ -n "${PIP_FIND_LINKS:-}" ]; then
    export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS// /,}}
  fi
  if [ -n "${PIP_CERT:-}" ]; then
    export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
  fi
  # As pip does: the best version of all indexes.
  export UV_INDEX_STRATEGY=unsafe-best-match
}

# install ARGUMENT...: 'pip install', by uv where there is one: in seconds, and
# with the same hashes. pip goes on where uv fails.
install() {
  if command -v uv >/dev/null; then
    uv --no-config pip install --python "$py" "$@" && return
    echo 'uv has failed: pip goes on'
  fi
  "$py" -m pip install "$@"
}

# describe_torch VERSION: says which build of torch will be fetched, its size
# and the time. Empty: the version of the requirements.
describe_torch() {
  local known
  known=$("$py" -m pip index versions torch 2>/dev/null) || known=''
  if [[ $known = *+cpu* ]]; then
    echo "torch ${1:+$1 }for CPUs (0.2 GB to fetch: a minute)"
    return
  fi
  local lacks='this package index has no torch for CPUs alone'
  local add='PIP_EXTRA_INDEX_URL can add an index that has'
  if [ -n "$torch_npu" ]; then
    # On other processors the only build is the one for CPUs.
    [ "$(uname -m)" != x86_64 ] ||
      say "note: $lacks, and torch_npu ends the process beside another; $add"
  elif ! command -v nvidia-smi >/dev/null; then
    say "note: $lacks, which is a tenth as large; $add"
  fi
  echo "torch ${1:+$1 }(0.2 to 3 GB to fetch: some minutes)"
}

# network_is_missing LOG: succeeds if pip could not reach an index.
network_is_missing() {
  # The last: with retries off, pip says no more of its first package.
  grep -q -E 'NewConnectionError|NameResolutionError|ConnectTimeoutError|'`
    `'ProxyError|Network is unreachable|Connection refused|[Dd]ns error|'`
    `'Temporary failure in name resolution|No route to host|'`
    `'satisfies the requirement pip==' "$1"
}

# Steps --------------------------------------------------------------------

# size_of FOLDER: prints its megabytes.
size_of() {
  du -sm "$1" | cut -f 1
}

# watch LINE: while pip works, redraws the line on the terminal.
watch() {
  local total got bar
  while sleep 0.5; do
    # pip names all that does not concern this Python, then goes on.
    total=$(($(grep -c '==' "$requirements") - $(grep -c ^Ignoring "$log")))
    got=$(grep -c '^ *Collecting' "$log")
    got=$((got < total ? got : total))
    printf -v bar '%*s' $((20 * got / total)) ''
    printf '\r%s [%-20s] %d s' "$1" "${bar// /#}" $((SECONDS - began)) >&3
  done
}

# step NUMBER WHAT COMMAND...: runs it and prints a line: what, size, seconds.
# What it prints goes to $log.
step() {
  local before line="${0##*/}: [$1] $2"
  shift 2
  began=$SECONDS
  before=$(size_of "$measured")
  printf '%s' "$line" >&3
  if [ -t 3 ]; then
    watch "$line" &
    watcher=$!
  fi
  messages=2
  working=yes
  "$@" >>"$log" 2>&1
  working=''
  messages=3
  if [ "$watcher" ]; then
    kill "$watcher"
    watcher=''
    printf '\r%s%40s\r%s' "$line" '' "$line" >&3
  fi
  printf ': %d MB, %d s\n' $(($(size_of "$measured") - before)) \
    $((SECONDS - began)) >&3
}

# conclude STATUS: the last words of a run that fails.
conclude() {
  [ "$1" != 0 ] || return 0
  messages=3
  [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
  if [ "$working" ]; then
    printf '\n' >&3
    if network_is_missing "$log"; then
      say 'error: no package index can be reached. On a host with a network,' \
        'run: bash scripts/setup.sh --download DIR. Copy DIR here, and run:' \
        'bash scripts/setup.sh --from DIR'
    else
      say "error: $({ grep -i error "$log" || grep . "$log"; } | tail -n 1)"
    fi
    say "all that pip has said is in $log"
  fi
  say 'not finished; run it again to continue'
}

# start_log FILE FOLDER: what steps print goes to FILE; sizes are FOLDER's.
start_log() {
  log=$1
  measured=$2
  watcher=''
  working=''
  exec 3>&2
  messages=3
  : >"$log"
  trap 'conclude "$?"' EXIT
  if command -v uv >/dev/null; then say 'packages are installed by uv'; fi
}

# Installation -------------------------------------------------------------

make_environment() {
  local flags=() site
  rm -f "$state"/{packages,mmcv,patches,package}
  [ "${torch%% *}" != host ] || flags=(--system-site-packages)
  # prepare() has refused folders that this script did not make.
  find "$VENV" -mindepth 1 -maxdepth 1 ! -name .setup -exec rm -rf {} +
  note python "$base"
  note request "$request"
  "${base#* }" -m venv ${flags[@]+"${flags[@]}"} "$VENV" ||
    die "${base#* } cannot make virtual environments (on Debian and Ubuntu:" \
      "apt-get install python${base%% *}-venv)"
  site=$(echo "$VENV"/lib/python*/site-packages)
  # If the base is itself a virtual environment, --system-site-packages skips
  # its packages.
  if [ "${torch%% *}" = host ] && ! has_modules torch; then
    "${base#* }" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
      >"$site/host-packages.pth"
  fi
}

install_packages() {
  rm -f "$state/packages"
  "$py" -m pip install -r "$build_requirements"
  install -r "$requirements"
}

install_torch() {
  case $torch in
    install*) install "torch==${torch#* }" ;;
    default*) install -r "$torch_requirements" ;;
  esac
  case $torch_npu in
    install*) install_torch_npu "${torch_npu#* }" ;;
  esac
  note packages "$packages_hash"
}

install_torch_npu() {
  local wheel=$1
  [[ $wheel = *.whl ]] || wheel=torch_npu==$wheel
  # Without dependencies: on x86-64 some releases require the +cpu build of
  # torch by name, which few package indexes have.
  install --no-deps "$wheel" ||
    die "pip cannot install $wheel for Python ${base%% *}. Download its wheel" \
      "from Ascend's releases of torch_npu and set TORCH_NPU=/PATH/OF.whl"
  install -r "$npu_requirements"
}

# build ARGUMENT...: pip, for source packages whose setup.py is older than
# today's Python.
build() {
  case ${base%% *} in
    3.13) "$py" "$ROOT/scripts/pip_source.py" "$@" ;;
    *) "$py" -m pip "$@" ;;
  esac
}

install_mmcv() {
  local site
  site=$(echo "$VENV"/lib/python*/site-packages)
  rm -f "$state"/{mmcv,patches}
  # pip treats a half-written install as complete.
  rm -rf "$site"/mm{cv,pose} "$site"/mm{cv,cv_full,pose}-*.dist-info \
    "$site"/xtcocotools*
  # torch_npu must not load itself while mmcv's setup.py imports torch.
  local -x TORCH_DEVICE_BACKEND_AUTOLOAD=0
  if [ "$with_ops" ]; then
    install_mmcv_full
  else
    MMCV_WITH_OPS=0 build install --ignore-installed --no-deps \
      --no-build-isolation --no-binary mmcv -r "$mmcv_requirements"
  fi
  # The host's Python may have an mmpose of its own.
  build install --ignore-installed --no-deps --no-build-isolation \
    -r "$source_requirements"
  note mmcv "${with_ops:-plain}"
}

# The source of the operators must be patched before it compiles.
install_mmcv_full() {
  local folder=$state/build
  rm -rf "$folder"
  mkdir "$folder"
  build download --no-deps --no-build-isolation --no-binary mmcv \
    --dest "$folder" -r "$mmcv_requirements"
  tar -xzf "$folder"/mmcv-1.2.7.tar.gz -C "$folder"
  "$py" "$ROOT/scripts/patches.py" apply --mmcv "$folder/mmcv-1.2.7"
  # -v shows progress, as this takes long. ninja is in bin/.
  PATH="$VENV/bin:$PATH" MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
    build install -v --ignore-installed --no-deps \
    --no-build-isolation "$folder/mmcv-1.2.7"
  # Keep the originals beside the installed, patched files.
  cp -r "$folder/mmcv-1.2.7/mmcv/.originals" "$site/mmcv/"
  rm -rf "$folder"
}

apply_patches() {
  rm -f "$state/patches"
  "$py" "$ROOT/scripts/patches.py" apply --inside "$VENV"
  note patches "$patches_hash"
}

install_package() {
  rm -f "$state/package"
  # The build writes beside its sources, and the checkout may be read-only.
  local build=$state/source
  rm -rf "$build"
  mkdir "$build"
  cp "$ROOT"/mmpose-master/{pyproject.toml,requirements.txt} "$build"
  ln -s "$ROOT/mmpose-master/hourglass_npu" "$build"
  "$py" -m pip install --no-deps --no-build-isolation --editable "$build"
  note package "$package"
}

# Downloads ----------------------------------------------------------------

# fetch ARGUMENT...: 'pip download' for another Python and machine.
fetch() {
  "$py" "$ROOT/scripts/pip_source.py" --for "$target" download \
    --dest "$folder" "$@"
}

# fetch_packages: fetches everything for $target into $folder.
fetch_packages() {
  local builders
  "${base#* }" -m venv "$folder/.tools"
  py=$folder/.tools/bin/python
  "$py" -m pip install -r "$build_requirements"
  # What the metadata of source packages need: they are built from there.
  builders=$folder/.tools/builders.txt
  awk '/^[a-z]/ { kept = $0 ~ /^(setuptools|wheel|numpy|cython)==/ } kept' \
    "$requirements" >"$builders"
  "$py" -m pip install -r "$builders"
  fetch --no-deps -r "$build_requirements"
  fetch --no-deps -r "$requirements"
  fetch --no-deps --no-build-isolation -r "$source_requirements"
  MMCV_WITH_OPS=0 fetch --no-deps --no-build-isolation --no-binary mmcv \
    -r "$mmcv_requirements"
  case $torch in
    install*) fetch --only-binary :all: "torch==${torch#* }" ;;
    *) fetch --only-binary :all: -r "$torch_requirements" ;;
  esac
  if [ "$torch_npu" ]; then
    case $torch_npu in
      *.whl) cp "${torch_npu#* }" "$folder" ;;
      *) fetch --no-deps "torch_npu==${torch_npu#* }" ;;
    esac
    fetch --no-deps -r "$npu_requirements"
  fi
}

# use_folder: makes pip install from $folder only, and requests the torch that
# was downloaded.
use_folder() {
  local contents
  contents=$folder/for-${base%% *}-$(uname -m)
  [ -d "$folder" ] || refuse "there is no folder $folder"
  [ -e "$contents" ] ||
    refuse "$folder has no packages for Python ${base%% *} on $(uname -m)," \
      "only $(cd "$folder" && echo for-*). Choose PYTHON=, or download with" \
      "--for ${base%% *}-$(uname -m)"
  unset PIP_INDEX_URL PIP_EXTRA_INDEX_URL UV_DEFAULT_INDEX UV_INDEX
  unset UV_INDEX_URL UV_EXTRA_INDEX_URL
  export PIP_NO_INDEX=1 PIP_FIND_LINKS=$folder
  export UV_NO_INDEX=1 UV_FIND_LINKS=$folder
  if [ -z "${TORCH:-}${TORCH_NPU:-}" ]; then
    read -r TORCH TORCH_NPU <"$contents" || true
    [[ $TORCH_NPU != *.whl ]] || TORCH_NPU=$folder/$TORCH_NPU
  fi
}
