#!/usr/bin/env bash
# Fine-tune with curl alone:   submit_with_curl.sh ROWS.jsonl MODEL
# First: eval "$(tunesmith env)". Running it again within a day finds the same job.
set -euo pipefail

rows=$1 model=$2
ask() { curl --fail-with-body --silent --show-error --retry 5 --retry-connrefused \
  --header "Authorization: Bearer $OPENAI_API_KEY" "$@"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

file=$(ask "$OPENAI_BASE_URL/files" --form purpose=fine-tune --form "file=@$rows" | field id)
job=$(ask "$OPENAI_BASE_URL/fine_tuning/jobs" --header "Idempotency-Key: ${KEY:-$file}" \
  --json "{\"model\": \"$model\", \"training_file\": \"$file\"}" | field id)

# Each request waits for up to half a minute and is answered when the job changes.
etag='"none"' status=queued
while [[ $status != @(succeeded|failed|cancelled) ]]; do
  headers=$(mktemp)
  answer=$(ask --dump-header "$headers" --header "If-None-Match: $etag" "$OPENAI_BASE_URL/fine_tuning/jobs/$job?wait=30")
  etag=$(sed -n 's/^etag: *\(.*\)\r$/\1/Ip' "$headers")
  if [[ -n $answer ]]; then status=$(field status <<< "$answer"); fi
  rm "$headers"
done
echo "$status $job"
[[ $status == succeeded ]]
