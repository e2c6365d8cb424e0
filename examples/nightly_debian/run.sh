#!/usr/bin/env bash
# What a pipeline does each day:   run.sh NIGHT   adds tonight's rows; after the night:   run.sh judge
set -euo pipefail
here=$(dirname "$0")

if [ "$1" = judge ]; then
  exec python3 "$here/judge.py" debian-sections
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 "$here/rows.py" "$1" > "$folder/rows.jsonl"
tunesmith files add "$folder/rows.jsonl" --metadata dataset=debian-sections
