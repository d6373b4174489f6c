#!/usr/bin/env bash
# Installs one dependency lane into a virtual environment, or does nothing if it is up to date.
#
#     constraints/install.sh main .venv test,dev,formats
#     constraints/install.sh tfio .venv-tfio tfio,test,formats
#
# Looks for a Python by itself; PYTHON=/path/to/python names one instead. Run from anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."

lane=$1 venv=$2 extras=$3
case $lane in
  tfio) oldest=10 newest=12 ;;  # TensorFlow 2.16 has no wheel for Python 3.13
  *) oldest=10 newest=13 ;;
esac

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# Prints the path of a program if it runs and is a Python of this lane. It has to be run: the
# shims of pyenv and asdf exist for versions that are not active, and only fail when started.
suitable() {
  "$1" - "$oldest" "$newest" 2>/dev/null <<'PYTHON'
import platform, sys
oldest, newest = int(sys.argv[1]), int(sys.argv[2])
if sys.version_info[0] != 3 or not oldest <= sys.version_info[1] <= newest:
    sys.exit(1)
if sys.maxsize < 2**32 or platform.python_implementation() != "CPython":
    sys.exit(1)  # TensorFlow's wheels are for 64-bit CPython
print(sys.executable)
PYTHON
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python from 3.$oldest to 3.$newest (64 bit)"
    return
  fi
  local candidate
  for candidate in python3 python3.12 python3.11 python3.13 python3.10 python \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-3]*/bin/python3 \
    "$HOME"/.local/share/uv/python/cpython-3.1[0-3]*/bin/python3; do
    suitable "$candidate" && return
  done
  fail "no Python from 3.$oldest to 3.$newest found (64 bit CPython); install one, for example
  Debian, Ubuntu: apt-get install python3 python3-venv     Fedora: dnf install python3.12
  macOS: brew install python@3.12                          any: pyenv install 3.12
or name one: PYTHON=/path/to/python make setup"
}

# Debian ships `venv` without `ensurepip` unless python3-venv is installed; virtualenv brings its
# own pip, and can be run from a folder without being installed.
create_venv() {
  rm -rf "$venv"
  "$python" -m venv "$venv" >/dev/null 2>&1 && return
  rm -rf "$venv"
  "$python" -m virtualenv --quiet "$venv" >/dev/null 2>&1 && return
  local folder
  folder=$(mktemp -d)
  if "$python" -m pip install --quiet --target "$folder" virtualenv >/dev/null 2>&1 &&
    PYTHONPATH=$folder "$python" -m virtualenv --quiet "$venv" >/dev/null 2>&1; then
    rm -rf "$folder"
    return
  fi
  rm -rf "$folder" "$venv"
  fail "$python can neither make a virtual environment nor install virtualenv;
  Debian, Ubuntu: apt-get install python3-venv python3-pip
  elsewhere: the package of this Python that holds the modules venv and ensurepip"
}

# pip names some hundred packages and files; one line that moves is all that a user needs.
one_line_progress() {
  awk -v terminal="$([ -t 1 ] && echo 1 || echo 0)" -v wanted="$packages" '
    /^Collecting |^Requirement already satisfied/ { found++; what = found " of about " wanted " packages found" }
    /^Installing collected packages/ { what = "all downloaded, unpacking (about a minute)" }
    { print >> log_file; fflush(log_file) }
    what != last {
      if (terminal) { printf "\r\033[K  %s", what; fflush() }
      else if (found % 25 == 0 || what ~ /^all/) { print "  " what; fflush() }
      last = what
    }
    END { if (terminal) printf "\r\033[K" }
  ' log_file="$log" -
}

install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
    --constraint "constraints/$lane.txt" --editable ".[$extras]" 2>&1 | one_line_progress
}

stamp=$(cat setup.cfg pyproject.toml "constraints/$lane.txt" | cksum)" $extras"
if [ "$(cat "$venv/installed" 2>/dev/null)" = "$stamp" ] &&
  "$venv/bin/python" -c "" 2>/dev/null; then
  exit 0
fi

log=$venv/install.log
packages=$(grep -c == "constraints/$lane.txt")
if ! suitable "$venv/bin/python" >/dev/null; then
  python=$(find_python)
  echo "creating $venv with $("$python" -V) ($python)"
  create_venv
fi
echo "installing the $lane lane into $venv: 3 GB on disk, a few minutes the first time"
rm -f "$log"
if ! install; then
  echo "the end of $log:" >&2
  tail -n 15 "$log" >&2
  fail "installing failed; is there a network, and room on the disk? Then run the same command again"
fi
echo "$stamp" >"$venv/installed"
echo "installed: $("$venv/bin/python" -V), $("$venv/bin/python" -m pip list 2>/dev/null | awk '$1 == "tensorflow" { print "TensorFlow " $2 }')"
