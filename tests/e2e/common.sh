# What the end-to-end tests share. Each is called with the path of the anneal binary; it works in a directory of its own
# that is removed at the end, and has bounded loops.
set -euo pipefail
anneal=$(realpath "$1")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
shared=$root/../shared/data
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ANNEAL_PIPELINES=$root/pipelines NO_COLOR=1
unset CLOUD_RUN_JOB MODEL_NAME NEW_MODEL BUCKET_NAME LORA_R LORA_ALPHA TRAIN_BATCH_SIZE EVAL_BATCH_SIZE \
	GRADIENT_ACCUMULATION_STEPS LOGGING_STEPS MAX_SEQ_LENGTH DATASET_LIMIT || true

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# A test that needs what is not here says so and counts as skipped.
skip() {
	echo "skipped: $*"
	exit 77
}

# expect STATUS COMMAND…: runs it with its output in $work/out and demands that exit status.
expect() {
	local want=$1 got=0
	shift
	"$@" >"$work/out" 2>&1 </dev/null || got=$?
	[[ $got == "$want" ]] || {
		cat "$work/out" >&2
		fail "exit status $got, not $want: $*"
	}
}

# says TEXT: the output of the last expect contains it.
says() {
	grep -qF -- "$1" "$work/out" || {
		cat "$work/out" >&2
		fail "not said: $1"
	}
}

# states [RUN [OPTION…]]: one line NAME=STATUS for each stage of a run.
states() {
	"$anneal" show "${1:-last}" "${@:2}" --json | tr -d ' \n' |
		grep -o '"name":"[^"]*","kind":"[^"]*","status":"[^"]*"' |
		sed 's/"name":"\([^"]*\)".*"status":"\([^"]*\)"/\1=\2/'
}
