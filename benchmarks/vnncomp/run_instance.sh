#!/usr/bin/env bash
# run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT_FILE TIMEOUT: decides an instance.
#
# RESULT_FILE always gets a first line: sat, unsat, unknown, timeout or error. After sat follows the counterexample, for a
# VNN-LIB 1.0 property as ((X_0 v) ... (Y_0 v)), for a 2.0 one as verify prints it. The exit code is 0 once that is written.

set -u
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
usage 6 "v1 CATEGORY ONNX VNNLIB RESULT_FILE TIMEOUT" "$@" || exit 1
onnx=$3 vnnlib=$4 result=$(realpath -m -- "$5") seconds=${6%$'\r'}
folder=$RUNS/$$ group=

# clean: no process and no file of this run is left.
clean() {
    [ -z "$group" ] || kill -KILL -- "-$group" "$group" 2>/dev/null
    rm -rf -- "$folder"
}

# finish WORD [FILE]: the result, with what else belongs to it.
finish() {
    trap '' TERM INT HUP
    record "$@"
    local failed=$?
    clean
    exit "$failed"
}

# record WORD [FILE]: the result file, whole or as it was.
record() {
    {
        printf '%s\n' "$1" && { [ -z "${2-}" ] || cat -- "$2"; }
    } >"$result.partial" && mv -f -- "$result.partial" "$result" && return 0
    rm -f -- "$result.partial"
    say "$result: cannot be written; the result is $1"
    [ -z "${2-}" ] || cat -- "$2" >&2
    return 1
}

for file in "$onnx" "$onnx.gz" "$vnnlib" "$vnnlib.gz"; do
    if [ "$result" -ef "$file" ]; then
        say "$result: is $file, which is read; choose another file"
        exit 1
    fi
done
if [ -e "$result" ] && [ ! -f "$result" ]; then
    say "$result: is no regular file; choose another one"
    exit 1
fi
trap 'finish timeout' TERM INT HUP
record error || exit 1 # should this script be killed before it can say more

vnnlib=$(present "$vnnlib") || finish error
if several "$onnx"; then
    found=$(networks "$onnx") || finish error
    command=(verify "$vnnlib")
    while read -r network; do command+=(--network "$network"); done <<<"$found"
else
    onnx=$(present "$onnx") || finish error
    command=(run "$onnx" "$vnnlib")
fi

# verify ends by itself at the first of these limits, and is ended at the second, both inside the organisers' own.
limits=$(awk -v t="$seconds" 'BEGIN {
    if (t !~ /^[0-9]*\.?[0-9]+\.?$/ || t <= 0) exit 1
    margin = t / 20; if (margin < 0.5) margin = t < 1 ? t / 2 : 0.5; if (margin > 3) margin = 3
    printf "%.3f %.3f", t - margin, t - margin / 3
}') || {
    say "TIMEOUT is '$seconds', but must be a number of seconds above 0"
    finish error
}
read -r soft hard <<<"$limits"

if ! mkdir -p -m 700 -- "$RUNS" || ! mkdir -m 700 -- "$folder"; then
    say "cannot make $folder; set VERIFY_RUNS to a folder of your own"
    finish error
fi
begun=$EPOCHREALTIME
timeout --kill-after=0.5 "$hard" "$VENV/bin/verify" "${command[0]}" --timeout "$soft" "${command[@]:1}" \
    >"$folder/out" </dev/null & # `timeout` makes a process group of itself and what it runs
group=$!
printf '%s %s %s\n' "$(birth $$)" "$group" "$(birth "$group")" >"$folder/processes"
wait "$group"
code=$?
group=

word=
read -r word <"$folder/out"
case $code:$word in
0:unsat | [01]:unknown | 1:timeout) finish "$word" ;;
0:timed-out) finish timeout ;; # as the standard's command line has it
0:sat) ;;
124:*) finish timeout ;;
137:*) # killed: by `timeout` at the limit, or by the kernel because memory ran out
    awk -v now="$EPOCHREALTIME" -v begun="$begun" -v hard="$hard" 'BEGIN { exit now - begun < hard }' && finish timeout
    say "verify was killed; memory may have run out"
    finish error
    ;;
*)
    say "verify ended with code $code"
    finish error
    ;;
esac

tail -n +2 -- "$folder/out" >"$folder/witness"
if zcat -f -- "$vnnlib" | head -c 100000 | sed 's/;.*//' | grep -q '(vnnlib-version'; then
    finish sat "$folder/witness"
fi
"$VENV/bin/python" "$HERE/assignment.py" <"$folder/witness" >"$folder/pairs" && [ -s "$folder/pairs" ] || {
    say "the counterexample cannot be read"
    finish error
}
finish sat "$folder/pairs"
