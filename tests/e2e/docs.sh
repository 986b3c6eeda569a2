#!/usr/bin/env bash
# docs/stages.md is what the schema tables say, and the shipped pipelines are in canonical form and without mistakes.
. "$(dirname "$0")/common.sh" "$@"

"$anneal" stages --markdown >stages.md
diff -u "$root/docs/stages.md" stages.md || fail "docs/stages.md is stale: anneal stages --markdown > docs/stages.md"
for graph in "$root"/pipelines/*.graph; do
	expect 0 "$anneal" check "$graph"
	cp "$graph" copy.graph
	expect 0 "$anneal" fmt copy.graph
	cmp "$graph" copy.graph || fail "$graph is not in canonical form: anneal fmt $graph"
done

# The rows of the quickstart are what the program beside them makes.
awk -f "$root/pipelines/quickstart-rows.awk" >rows.jsonl
cmp rows.jsonl "$root/pipelines/quickstart.jsonl" || fail "pipelines/quickstart.jsonl is not what quickstart-rows.awk makes"
echo passed
