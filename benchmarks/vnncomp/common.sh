# What the three scripts share; sourced, never run.
#
# VERIFY_VENV: the virtual environment to use instead of the checkout's own. VERIFY_RUNS: where runs leave their notes.

LC_ALL=C # numbers have a point
HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd -- "$HERE/../.." && pwd -P)
VENV=${VERIFY_VENV:-$ROOT/.venv}
RUNS=${VERIFY_RUNS:-${TMPDIR:-/tmp}/verify-vnncomp-$(id -u)}

# say WORDS: a message on stderr.
say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# usage COUNT TEXT ARGUMENT...: whether there are so many arguments, the first of them the version of this interface.
usage() {
    if [ "$(($# - 2))" -ne "$1" ] || [ "$3" != v1 ]; then
        say "usage: ${0##*/} $2"
        return 1
    fi
}

# present FILE: the file as it is there, plain or gzipped.
present() {
    local path
    for path in "$1" "$1.gz" "${1%.gz}"; do
        if [ -f "$path" ]; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    say "$1: there is no such file, gzipped neither; check the path"
    return 1
}

# several ONNX: whether it names several networks, as [('f', 'a.onnx'), ('g', 'b.onnx')].
several() {
    [[ "$1" == '['* ]]
}

# networks ONNX: those, as they are there, in lines of NAME=FILE.
networks() {
    local pairs name file
    pairs=$("$VENV/bin/python" -I -c 'import ast, sys
for name, file in ast.literal_eval(sys.argv[1]):
    print(f"{name}={file}")' "$1" 2>/dev/null) || {
        say "$1: write several networks as [('f', 'a.onnx'), ('g', 'b.onnx')]"
        return 1
    }
    while IFS='=' read -r name file; do
        file=$(present "$file") || return 1
        printf '%s=%s\n' "$name" "$file"
    done <<<"$pairs"
}

# birth PID: when a process started, in ticks since the machine did. With it a number names a process for good.
birth() {
    local fields
    read -r fields 2>/dev/null <"/proc/$1/stat" || return 1
    set -- ${fields##*) }
    printf '%s\n' "${20}"
}

# is PID BIRTH: whether that process is still there.
is() {
    [ "$(birth "$1")" = "$2" ]
}
