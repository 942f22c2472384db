#!/usr/bin/env bash
# install_tool.sh v1: makes the virtual environment and tries it out. Repeatable.

set -eu
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
usage 1 v1 "$@" || exit 1

# The first Python that is new enough.
python=
for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        python=$name
        break
    fi
done
if [ -z "$python" ]; then
    say "there is no Python 3.10 or newer; install one"
    exit 1
fi

if [ ! -x "$VENV/bin/python" ]; then
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then # Debian and Ubuntu ship it apart
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        sudo=
        [ "$(id -u)" -eq 0 ] || sudo=sudo
        $sudo apt-get update
        $sudo apt-get install -y "python$version-venv"
    fi
    "$python" -m venv "$VENV"
fi
"$VENV/bin/python" -m pip --disable-pip-version-check install --editable "$ROOT"

family=$ROOT/properties/controller
verdict=$("$VENV/bin/verify" run --quiet "$family/onnx/controller.onnx" "$family/vnnlib/thrust_bound.vnnlib")
if [ "$verdict" != unsat ]; then
    say "installed, but a problem that is unsat gave '$verdict'"
    exit 1
fi
say "installed in $VENV"
