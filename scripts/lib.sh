# Set-up shared by scripts/demo and scripts/test, for a fresh Debian machine with python3 and apt only.
# Sourced, not run. Sets $top (the checkout) and defines: say, need_packages, make_venv.

top=$(cd "$(dirname "$0")/.." && pwd)
python=/usr/bin/python3    # Debian's own: it is the one that the product will run with
[ -x "$python" ] || python=python3

say() { printf '%s\n' "== $*" >&2; }

# need_packages NAME...: install what is missing; without root, say what to ask the administrator for.
need_packages() {
    missing=
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        say "these packages are missing, and only root can install them:$missing"
        return 1
    fi
    say "installing$missing"
    apt="apt-get -o DPkg::Lock::Timeout=600"    # somebody else may be installing
    $apt update -qq
    # shellcheck disable=SC2086  # a list of package names
    DEBIAN_FRONTEND=noninteractive $apt install -y -qq --no-install-recommends $missing >/dev/null
}

# make_venv FOLDER EXTRA...: a virtual environment with what pyproject.toml asks for, made anew when that changed.
make_venv() {
    venv=$1; shift
    stamp=$(sha256sum "$top/pyproject.toml" | cut -d' ' -f1)
    if [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ]; then
        say "preparing $venv"
        rm -rf "$venv"
        "$python" -m venv --system-site-packages "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -e "$top$1"
        printf '%s\n' "$stamp" >"$venv/stamp"
    fi
}
