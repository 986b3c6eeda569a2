#!/usr/bin/env bash
# The command line as a user meets it: every command once, its JSON, its mistakes and its exit codes, on graphs of exec stages.
. "$(dirname "$0")/common.sh" "$@"
command -v python3 >/dev/null && json() { python3 -c 'import json,sys; [json.loads(l) for l in sys.stdin] if sys.argv[1:] else json.load(sys.stdin)' "$@" <"$work/out"; } ||
	json() { :; }

mkdir pipelines
cat >pipelines/two.graph <<'GRAPH'
param "word" {
  type    = "string"
  default = "one"
}

stage "first" {
  uses    = "exec"
  command = "echo working; printf '{\"text\":\"%s\"}\n{\"text\":\"b\"}\n' ${param.word} >$OUT_rows"
  outputs = { rows = "rows" }
}

stage "second" {
  uses    = "exec"
  inputs  = { rows = first.rows }
  command = "wc -l <$IN_rows >$OUT_count; mkdir $OUT_dir; echo x >$OUT_dir/a; echo y >$OUT_dir/b"
  outputs = { count = "file", dir = "file" }
}
GRAPH
sed 's/^  command = "wc.*/  command = "echo oh no >\&2; exit 9"/' pipelines/two.graph >pipelines/bad.graph
sed 's/^  command = "wc.*/  command = "sleep 30"/' pipelines/two.graph >pipelines/slow.graph

# Before the first run.
expect 2 "$anneal" runs
expect 0 "$anneal" plan two
says 'never run'
says '1 to run, 1 unknown'
expect 0 "$anneal" run two --dry-run
says '1 to run, 1 unknown'

# A run, and the same again.
expect 0 "$anneal" run two
says 'first: working'
says 'run 1 of two: done in'
says '2 done'
expect 0 "$anneal" run two
says '2 cached: first, second'
expect 0 "$anneal" run two --quiet
[[ ! -s $work/out ]] || fail "--quiet printed: $(cat "$work/out")"
expect 0 "$anneal" run two --force --json
json lines
says '"event":"run_started"'
says '"event":"stage_finished"'
says '"severity":"NOTICE"'
expect 0 env CLOUD_RUN_JOB=x "$anneal" run two
json lines
says '"event":"run_finished"'

# Plan, why, and a change.
expect 0 "$anneal" plan two --json
json
says '"state": "cached"'
expect 0 "$anneal" plan two --set word=three
says 'attribute command'
says '1 to run, 1 unknown'
expect 0 "$anneal" why two first --set word=three
says 'attribute command'
expect 0 "$anneal" why two first
says 'nothing has changed since run'
expect 0 "$anneal" why two second 1 --json
json
expect 2 "$anneal" why two secnd
says 'did you mean "second"?'
expect 2 "$anneal" why two first 99

# History.
expect 0 "$anneal" runs
says 'two'
expect 0 "$anneal" runs --json
json
expect 0 "$anneal" show
says 'stages'
expect 0 "$anneal" show 1 --json
json
expect 0 "$anneal" show 1 first --json
json
says '"key_record"'
expect 0 "$anneal" show last second
says 'sha256:'
expect 0 "$anneal" logs 1
says 'first: working'
expect 0 "$anneal" logs last first --json
json lines
says '"line":"working"'
expect 0 "$anneal" metrics
says 'no metrics'
expect 2 "$anneal" show 99
expect 2 "$anneal" show nine
expect 2 "$anneal" logs 1 frist
says 'did you mean "first"?'

# What stages made, also of a run that took it from the store.
expect 0 "$anneal" cat first
says '{"text": "one"}'
expect 0 "$anneal" cat 2 first.rows --ids --limit 1
says '{"id": 0, "row": {"text": "one"}}'
[[ $(wc -l <"$work/out") == 1 ]] || fail "--limit 1 printed more"
expect 0 "$anneal" cat last second.count
says '2'
expect 0 "$anneal" cat last second.dir
says 'a'
says 'b'
expect 2 "$anneal" cat last second
says 'which one?'
expect 2 "$anneal" cat last second.cuont
expect 0 bash -c '"$1" cat first | head -n 1' - "$anneal"
compgen -G '.anneal/staging/*' >/dev/null && fail "cat left files behind: $(ls .anneal/staging)"

# A stage that fails: 3, the stage is named, and what goes on from here.
expect 3 "$anneal" run bad
says 'anneal: stage "second"'
says 'oh no'
says 'anneal logs'
says 'goes on from here'
expect 0 "$anneal" show last
says 'failed'
expect 2 "$anneal" cat last second
says 'made nothing'
expect 0 "$anneal" logs last second
says 'oh no'

# Interrupted: 5, and recorded as that.
"$anneal" run slow >"$work/slow" 2>&1 </dev/null &
pid=$!
for ((i = 0; i < 200; i++)); do
	grep -q 'second: started' "$work/slow" && break
	sleep 0.05
done
kill -TERM "$pid"
status=0
wait "$pid" || status=$?
[[ $status == 5 ]] || fail "exit status $status after SIGTERM: $(cat "$work/slow")"
expect 0 "$anneal" runs
says 'interrupted'

# The language.
expect 0 "$anneal" check pipelines/two.graph
says 'all is well'
echo 'stage "x" { uses = "exce" }' >broken.graph
expect 2 "$anneal" check broken.graph
says 'exec'
expect 2 "$anneal" check broken.graph pipelines/two.graph --json
json
expect 0 "$anneal" graph two
says 'digraph'
expect 0 "$anneal" graph two --mermaid
says 'flowchart'
expect 0 "$anneal" graph two --json
json
printf 'stage "x" {\nuses="exec"\n  command  =   "true"\n}\n' >ugly.graph
expect 2 "$anneal" fmt --check ugly.graph
# A large output is hashed where it is made.
printf 'stage "x" {\n  uses    = "exec"\n  command = "head -c 70000000 /dev/zero >$OUT_zeros"\n  outputs = { zeros = "file" }\n}\n' >large.graph
expect 0 "$anneal" run ./large.graph --state large
expect 0 "$anneal" show last --json --state large
says "sha256:$(head -c 70000000 /dev/zero | sha256sum | cut -d' ' -f1)"
rm -r large
expect 0 "$anneal" fmt ugly.graph
says 'ugly.graph'
expect 0 "$anneal" fmt --check ugly.graph
expect 0 "$anneal" stages
says 'qlora-train'
expect 0 "$anneal" stages exec
expect 0 "$anneal" stages --json
json
expect 0 "$anneal" stages --markdown
says '## serve-warmup'
expect 2 "$anneal" stages exce
says 'did you mean "exec"?'

# Mistakes.
expect 2 "$anneal"
expect 2 "$anneal" rnu
says 'did you mean "run"?'
expect 2 "$anneal" run tow
says 'did you mean "two"?'
expect 2 "$anneal" run two --forse
says 'did you mean --force?'
expect 2 "$anneal" run two --set word
says 'name=value'
expect 2 "$anneal" run two --set wrod=x
expect 2 "$anneal" run two --from secnd
says 'second'
expect 2 "$anneal" run two --store gs://bucket
says 'not there yet'
expect 2 "$anneal" generate nowhere "Once"
expect 2 "$anneal" serve last:first
says 'is no model'

# Where things lie.
expect 0 "$anneal" --state elsewhere run two
[[ -f elsewhere/anneal.db ]] || fail "--state before the command was not heeded"
expect 0 env ANNEAL_STATE=third "$anneal" run two
[[ -f third/anneal.db ]] || fail "ANNEAL_STATE was not heeded"
expect 0 "$anneal" --version
expect 0 "$anneal" help
expect 0 "$anneal" help run
says '--from'
expect 0 env HF_TOKEN=very-secret "$anneal" doctor
grep -q very-secret "$work/out" && fail "doctor printed a token"
says 'HF_TOKEN'
expect 0 "$anneal" doctor --json
json
says '"gpu":'

# A model: the continuation alone, and over HTTP.
if [[ -d $shared/stories260K ]]; then
	expect 0 "$anneal" generate "$shared/stories260K" "Once upon a time" --max-tokens 8
	says 'there was'
	expect 0 "$anneal" generate "$shared/stories260K" "Once upon a time" --max-tokens 8 --json --device cpu --weights nf4
	json
	says '"device": "on the CPU in fp32"'
	expect 2 "$anneal" generate "$shared/stories260K" "Once" --device gpu
	says 'device "gpu": it takes auto, cpu or cuda'
	expect 2 "$anneal" generate "$shared/stories260K" "Once" --device cpu --precision bf16
	says 'precision bf16 needs a GPU'
	expect 2 "$anneal" serve "$shared/stories260K" --weights fp8
	says 'weights "fp8": it takes stored or nf4'
	expect 2 "$anneal" serve "$shared/stories260K" --slots 0
	says '--slots 0: it takes 1 or more'
	"$anneal" serve "$shared/stories260K" --port 0 --slots 2 --device cpu --json >"$work/serve" 2>/dev/null </dev/null &
	pid=$!
	for ((i = 0; i < 200; i++)); do
		[[ -s $work/serve ]] && break
		sleep 0.05
	done
	cat >warm.graph <<GRAPH
stage "warm" {
  uses         = "serve-warmup"
  url          = "$(sed 's/.*"url":"\([^"]*\)".*/\1/' "$work/serve")"
  prompts      = ["Once upon a time", "The dog"]
  max_tokens   = 8
  require_stop = false
}
GRAPH
	grep -q '"device":"on the CPU in fp32"' "$work/serve" || fail "serve said: $(cat "$work/serve")"
	expect 0 "$anneal" run ./warm.graph
	says '2 answers'
	expect 0 "$anneal" run ./warm.graph --set warm.flavour=vllm --set warm.slots=2
	says '2 answers'
	expect 2 "$anneal" run ./warm.graph --set warm.device=cpu
	says 'this is for model'
	expect 3 "$anneal" run ./warm.graph --set warm.require_stop=true
	says 'did not stop'
	says 'Once upon a time'
	kill "$pid"
	status=0
	wait "$pid" || status=$?
	[[ $status == 0 ]] || fail "serve ended with $status"
	expect 0 "$anneal" cat 1 first
fi
echo passed
