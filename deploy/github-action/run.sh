#!/usr/bin/env bash
# What the action does. It runs in any shell: TUNESMITH_URL, TUNESMITH_API_KEY and JOB_FILE are enough.
set -euo pipefail

if ! command -v tunesmith > /dev/null; then
  if [[ -z ${CLIENT:-} ]]; then # the version that the service itself runs
    CLIENT=$(python3 "$(dirname "${BASH_SOURCE[0]}")/fetch_client.py" "$(mktemp -d)")
  fi
  python3 -m pip install --quiet --disable-pip-version-check "$CLIENT"
fi

words=(ci run "${JOB_FILE:?the job file}" --timeout "${TIMEOUT:-6h}")
if [[ -n ${KEY:-} ]]; then words+=(--key "$KEY"); fi
if [[ -n ${JUNIT:-} ]]; then words+=(--junit "$JUNIT"); fi
if [[ ${DRY_RUN:-false} == true ]]; then words+=(--dry-run); fi
if [[ ${CANCEL_ON_INTERRUPT:-false} == true ]]; then words+=(--cancel-on-interrupt); fi

exec tunesmith "${words[@]}" # in place of this shell, so that signals and the exit code are its own
