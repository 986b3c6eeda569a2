#!/usr/bin/env bash
# kill.sh ANNEAL [N [EPOCHS]]: kills the quickstart with SIGKILL at N random moments, each run going on where the one before was
# killed or, once a run came through, from nothing. However it was cut up, the adapter has the digest of an uninterrupted
# run, with no flag, and a finished stage is never done twice.
. "$(dirname "$0")/common.sh" "$1"
kills=${2:-100}
args=(run quickstart --set epochs="${3:-2}" --set warmup.require_stop=false)

adapter() {
	"$anneal" --state "$1" show last --json | tr -d ' \n' | grep -o '"name":"adapter".*' | grep -o 'sha256:[0-9a-f]*' | sed -n 2p
}

# No stage was done by two of the runs in that state directory.
done_once() {
	local run twice
	twice=$(for ((run = 1; run <= $1; run++)); do states "$run" --state cut; done | grep '=done$' | sort | uniq -d)
	[[ -z $twice ]] || fail "done more than once: $twice"
}

start=$(date +%s%N)
expect 0 "$anneal" "${args[@]}" --state whole
full_ms=$((($(date +%s%N) - start) / 1000000))
want=$(adapter whole)
[[ $want == sha256:* ]] || fail "no digest of the adapter in show --json"

RANDOM=${SEED:-$$}
echo "seed $RANDOM, an uninterrupted run takes $full_ms ms"
# Moments are drawn from this span. It shrinks when a run comes through before its kill and grows when one is killed, since
# what else the machine does changes how long a run takes.
span_ms=$full_ms
killed=0 finished=0 runs=0
for ((i = 0; i < 4 * kills && killed < kills; i++)); do
	"$anneal" "${args[@]}" --state cut >"$work/out" 2>&1 </dev/null &
	pid=$!
	at=$((RANDOM * span_ms / 32768))
	sleep "$((at / 1000)).$(printf '%03d' $((at % 1000)))"
	kill -9 "$pid" 2>/dev/null || true
	status=0
	wait "$pid" 2>/dev/null || status=$?
	runs=$("$anneal" runs --state cut --json 2>/dev/null | grep -o '"run": *[0-9]*' | grep -o '[0-9]*' | sort -n | tail -1 || true)
	if ((status == 137)); then
		killed=$((killed + 1))
		span_ms=$((span_ms * 11 / 10 > full_ms ? full_ms : span_ms * 11 / 10))
	else
		span_ms=$((span_ms * 3 / 4 + 50))
	fi
	if ((status == 0)); then
		finished=$((finished + 1))
		[[ $(adapter cut) == "$want" ]] || fail "after $killed kills the adapter is $(adapter cut), not $want"
		done_once "$runs"
		rm -rf cut
	elif ((status != 137)); then
		cat "$work/out" >&2
		fail "run $i ended with status $status"
	fi
done
expect 0 "$anneal" "${args[@]}" --state cut
[[ $(adapter cut) == "$want" ]] || fail "after $killed kills the adapter is $(adapter cut), not $want"
((killed == kills)) || fail "only $killed kills in $i runs"
echo "passed: $killed kills, $((finished + 1)) runs came through, adapter $want"
