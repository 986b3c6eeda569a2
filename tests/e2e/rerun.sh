#!/usr/bin/env bash
# Rerunning: an edit reruns what is below it and nothing else; --from, --only, --until, why and plan say what they do.
. "$(dirname "$0")/common.sh" "$@"
[[ -f $shared/wikisql/train.jsonl && -d $shared/stories260K ]] || skip "$shared is not here"

mkdir pipelines
sed -e "s|source = param.dataset|source = \"$shared/sql_create_context/rows.jsonl\"|" \
	-e "s|source = param.model|source = \"$shared/stories260K\"|" "$root/pipelines/sql-finetune.graph" >pipelines/sql.graph
small=(--set limit=24 --set heldout=6)
expect 0 "$anneal" run sql "${small[@]}"

# Swapping the dataset: the stages that depend on it, and no others (the base model stays).
cp pipelines/sql.graph before.graph
sed -i -e "s|^  source = \".*rows.jsonl\"|  source = \"$shared/wikisql/train.jsonl\"|" \
	-e '/^  completion = /d' -e 's|^  prompt     = .*|  template   = "{text}"|' \
	-e 's|^  rows         = heldout-prompts.rows|  prompts      = ["table: t"]|' -e '/^  samples /d' pipelines/sql.graph
expect 0 "$anneal" run sql "${small[@]}"
[[ $(states | grep '=cached$') == base=cached ]] || fail "after the swap not only the base was cached: $(states)"

# And back: everything is still there.
cp before.graph pipelines/sql.graph
expect 0 "$anneal" run sql "${small[@]}"
states | grep -vE '=cached$|^exported=' && fail "the first dataset's results were not taken again: $(states)"

# --from starts there; what is above is taken as it is, and its edits are ignored aloud.
expect 0 "$anneal" run sql "${small[@]}" --from adapter --set heldout=7
states | grep -q '^adapter=done$' || fail "--from adapter did not run it: $(states)"
states | grep -q '^tokens=done$' && fail "--from adapter ran tokens"

# why names the attribute.
expect 0 "$anneal" why sql adapter "${small[@]}" --set adapter.learning_rate=1e-3
says 'learning_rate'
expect 0 "$anneal" plan sql "${small[@]}" --set adapter.learning_rate=1e-3
says 'learning_rate'

# Trivial edits rerun nothing.
{ echo '# a comment'; cat before.graph; } >pipelines/sql.graph
expect 0 "$anneal" run sql "${small[@]}"
states | grep -v '=cached$' && fail "a comment reran something"

# The codelab's own pipeline runs through, by the codelab's own variables, and exports fp16.
expect 0 env MODEL_NAME="$shared/stories260K" DATASET_LIMIT=20 NEW_MODEL=lab "$anneal" run codelab \
	--set dataset="$shared/sql_create_context/rows.jsonl"
grep -q '"torch_dtype": "float16"' exports/lab/config.json || fail "the codelab's export is not fp16"

# Bad input: exit 2, one clear line with a place.
expect 2 "$anneal" run sql --set adapter.learning_rat=1
says 'learning_rate'
expect 2 "$anneal" run sql --from adaptor
says 'adapter'
expect 2 "$anneal" run nosuch
expect 2 "$anneal" frobnicate
echo passed
