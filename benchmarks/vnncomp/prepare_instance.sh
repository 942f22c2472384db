#!/usr/bin/env bash
# prepare_instance.sh v1 CATEGORY ONNX VNNLIB: ends what earlier runs left behind and reads all files once.
#
# Nothing is computed and nothing kept. A failure here makes the organisers skip the whole category, so what is wrong with one
# instance is only told; run_instance.sh records it.

set -u
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
usage 4 "v1 CATEGORY ONNX VNNLIB" "$@" || exit 1
onnx=$3 vnnlib=$4

if [ ! -x "$VENV/bin/verify" ]; then
    say "$VENV/bin/verify: not there; run install_tool.sh v1 first"
    exit 1
fi

# Every run has a folder, named by its script's number, with the script's birth and the number and birth of the group that it
# started. A group whose script is gone is a leftover; any other one is somebody's run.
for run in "$RUNS"/*/; do
    [ -O "$run" ] || continue
    script=$(basename -- "$run")
    script_birth= group= group_birth=
    read -r script_birth group group_birth 2>/dev/null <"$run/processes"
    if [ -n "$script_birth" ] && is "$script" "$script_birth"; then
        continue
    fi
    if [ -n "$group_birth" ] && is "$group" "$group_birth"; then
        say "ending a leftover, process group $group"
        kill -KILL -- "-$group" 2>/dev/null
    fi
    rm -rf -- "$run"
done

# Into the file cache: the instance, and what verify is made of.
if several "$onnx"; then
    found=$(networks "$onnx")
    while IFS='=' read -r _ file; do
        [ -z "$file" ] || cat -- "$file" >/dev/null
    done <<<"$found"
elif file=$(present "$onnx"); then
    cat -- "$file" >/dev/null
fi
if file=$(present "$vnnlib"); then
    cat -- "$file" >/dev/null
fi
"$VENV/bin/verify" info "$ROOT/properties/controller/onnx/controller.onnx" >/dev/null ||
    say "verify does not start; is the installation whole?"
exit 0
