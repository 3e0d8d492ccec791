#!/usr/bin/env bash
# A detached training on this worker; tpu_vm.sh calls it on all of them:
#
#   worker.sh install        Python and the packages, in ~/poolformer_venv
#   worker.sh start FLAGS    launch.train --distributed FLAGS
#   worker.sh status         exits with 0 if it runs, or has done all
#   worker.sh log LINES      the end of the log
#   worker.sh stop           SIGTERM, on which it saves; waits until it has ended
#
# In ~/poolformer_run are its log, its pid and, once it has ended, its exit status.
set -euo pipefail

code="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
folder="$HOME/poolformer_run"
python="$HOME/poolformer_venv/bin/python"
stop_seconds=600 # For the step, an evaluation and the checkpoint.

say() { echo "$(hostname): $*"; }

fail() {
  say "error: $*" >&2
  exit 1
}

pid() { cat "$folder/pid"; }

is_running() {
  [[ ! -e "$folder/status" && -e "$folder/pid" ]] &&
    grep -qaE "launch\.train|worker\.sh" "/proc/$(pid)/cmdline" 2>/dev/null
}

install() {
  python3 -m pip install --quiet --user uv
  local uv="$HOME/.local/bin/uv"
  [[ -x $python ]] || "$uv" venv --quiet --python=3.12 "$HOME/poolformer_venv"
  "$uv" pip install --quiet --python="$python" --editable "${code}[tpu,gcs]"
  say "installed $("$python" --version)"
}

start() {
  [[ -x $python ]] || fail "nothing is installed; run tpu_vm.sh install first"
  if is_running; then fail "a training runs already, pid $(pid); stop it first"; fi
  mkdir -p "$folder"
  rm -f "$folder/status" "$folder/pid"
  setsid bash "${BASH_SOURCE[0]}" supervise "$@" >"$folder/log" 2>&1 </dev/null &
  until [[ -s "$folder/pid" ]]; do sleep 0.1; done
  say "started, pid $(pid); log: $folder/log"
}

supervise() {
  local status=0
  cd "$code"
  "$python" -m launch.train --distributed "$@" &
  echo $! >"$folder/pid"
  wait $! || status=$?
  echo "$status" >"$folder/status"
}

status() {
  [[ -e "$folder/pid" ]] || fail "nothing was started"
  if is_running; then
    say "running, pid $(pid): $(tail -n 1 "$folder/log")"
  elif [[ -e "$folder/status" ]]; then
    say "ended with exit status $(cat "$folder/status"): $(tail -n 1 "$folder/log")"
    [[ "$(cat "$folder/status")" == 0 ]]
  else
    fail "it was killed, or the machine was: $(tail -n 1 "$folder/log")"
  fi
}

log() { tail -n "$1" "$folder/log"; }

stop() {
  local deadline=$((SECONDS + stop_seconds))
  if is_running; then kill -TERM "$(pid)"; fi
  while is_running; do
    [[ $SECONDS -lt $deadline ]] || fail "still running $stop_seconds s after SIGTERM, pid $(pid)"
    sleep 0.2
  done
  status || [[ -e "$folder/status" ]]
}

case "${1-}" in
  install | start | supervise | status | log | stop) "$@" ;;
  *) fail "no command '${1-}'; one of: install, start, status, log, stop" ;;
esac
