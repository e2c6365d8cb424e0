#!/usr/bin/env bash
# What the action does. It runs in any shell: TUNESMITH_URL, TUNESMITH_API_KEY and JOB_FILE are enough.
set -euo pipefail

stop() { # CODE, and why
  echo "::error title=Tunesmith::$2" >&2
  exit "$1"
}

[[ -n ${JOB_FILE:-} ]] || stop 2 "No job file is named (JOB_FILE)."
[[ -n ${TUNESMITH_URL:-} ]] || stop 2 "The address of the service is not set (TUNESMITH_URL)."
[[ -n ${TUNESMITH_API_KEY:-} ]] ||
  stop 8 "The key is empty (TUNESMITH_API_KEY). Pull requests from forks are given no secrets: skip the step there."

if ! command -v tunesmith > /dev/null; then
  if [[ -z ${CLIENT:-} ]]; then # the version that the service itself runs
    CLIENT=$(python3 "$(dirname "${BASH_SOURCE[0]}")/fetch_client.py" "$(mktemp -d)")
  fi
  if python3 -c 'import os, sys, sysconfig as s
sys.exit(sys.prefix != sys.base_prefix or not os.path.exists(s.get_path("stdlib") + "/EXTERNALLY-MANAGED"))'; then
    place=$(mktemp -d) # the system's own Python takes no packages
    python3 -m venv "$place"
    PATH="$place/bin:$PATH"
  fi
  python3 -m pip install --quiet --disable-pip-version-check "$CLIENT"
  PATH="$PATH:$(python3 -m site --user-base || true)/bin" # where pip puts it if it may not write beside python3
fi

words=(ci run "$JOB_FILE" --timeout "${TIMEOUT:-6h}")
if [[ -n ${KEY:-} ]]; then words+=(--key "$KEY"); fi
if [[ -n ${JUNIT:-} ]]; then words+=(--junit "$JUNIT"); fi
if [[ ${DRY_RUN:-false} == true ]]; then words+=(--dry-run); fi
if [[ ${CANCEL_ON_INTERRUPT:-false} == true ]]; then words+=(--cancel-on-interrupt); fi

exec tunesmith "${words[@]}" # in place of this shell, so that signals and the exit code are its own
