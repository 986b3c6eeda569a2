#!/usr/bin/env bash
# The quickstart runs through, says what it made, and is all cached the second time.
. "$(dirname "$0")/common.sh" "$1"
epochs=${2:-1}

expect 0 "$anneal" run quickstart --set epochs="$epochs" --set warmup.require_stop=false
for text in 'rows' 'tokens' 'first loss' 'last loss' 'held-out loss' 'exports/quickstart'; do says "$text"; done
[[ -s exports/quickstart/model.safetensors && -s exports/quickstart/config.json && -s exports/quickstart/tokenizer.json ]] ||
	fail "the export is incomplete: $(ls exports/quickstart)"

expect 0 "$anneal" run quickstart --set epochs="$epochs" --set warmup.require_stop=false
states | grep -v '=cached$' && fail "a stage was not cached in the second run"

# Rows keep the id of their source row as far as the tokens.
expect 0 "$anneal" cat last tokens --ids --limit 3
says 'SELECT'

# What is published shares nothing with the store.
[[ $(stat -c %h exports/quickstart/model.safetensors) == 1 ]] || fail "the export is linked into the store"

# An export that somebody removed is made again, and nothing else. What a killed run left beside it goes, not what one is at.
rm -r exports/quickstart
mkdir exports/quickstart.{1,2,x}.part exports/quickstart.3.part.old
exec 9<exports/quickstart.2.part
flock -n 9
expect 0 "$anneal" run quickstart --set epochs="$epochs" --set warmup.require_stop=false
[[ -s exports/quickstart/model.safetensors ]] || fail "the export did not come back"
[[ $(cd exports && echo *) == "quickstart quickstart.2.part quickstart.x.part" ]] || fail "exports holds $(ls exports)"
exec 9<&-
[[ $(states | grep -c '=done$') == 1 ]] || fail "more than the export ran again: $(states)"
echo passed
