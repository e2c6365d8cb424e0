#!/usr/bin/env bash
# Retrain an adapter every night, from cron or a pipeline:   nightly_retrain.sh ROWS.jsonl MODEL FOLDER
# The adapter lands in FOLDER/adapter only when the job succeeded. TIMEOUT (4h) bounds the wait, not the job.
set -euo pipefail

rows=$1 model=$2 folder=$3

# The same night and the same rows are the same job: running this step again attaches to it.
key="nightly-$(date -u +%F)-$(sha256sum "$rows" | cut -c1-16)"

job=$(tunesmith submit "$rows" --model "$model" --idempotency-key "$key" --metadata source=nightly -o id)

code=0
tunesmith watch "$job" --timeout "${TIMEOUT:-4h}" || code=$?

case $code in
  0) tunesmith artifacts pull "$job" --to "$folder" --kind adapter ;;
  3) echo "training failed; its last words:" >&2; tunesmith logs "$job" | tail -n 20 >&2 ;;
  4) echo "somebody cancelled $job" >&2 ;;
  5) echo "still training; run this step again to wait on" >&2 ;;
  8 | 9) echo "the service cannot be used from here: see tunesmith doctor" >&2 ;;
esac
exit "$code"
