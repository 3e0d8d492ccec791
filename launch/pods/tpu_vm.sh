#!/usr/bin/env bash
# TPU slices from another machine: create, install, train, look, stop, delete. See docs/pods.md.
set -euo pipefail

usage() {
  cat <<'END'
Usage: launch/pods/tpu_vm.sh COMMAND --name=NAME --zone=ZONE [options] [-- arguments]

  create    make a slice, or with --queued ask for it
  install   copy the committed code to all workers, and install it there
  train     start launch.train on all workers, detached; its flags come after --
  status    state of the slice; of all workers, whether training runs or how it ended
  logs      the end of a worker's log
  stop      SIGTERM: all workers finish the same step, save and exit; waits for that
  run       run the shell command that comes after -- on all workers
  delete    delete the slices; what is on their disks is lost

  --name=NAME          of the slice or of the queued resource
  --zone=ZONE          such as us-west4-a
  --project=PROJECT    gcloud's own if left out
  --queued             it is a queued resource; for all commands
  --slices=N           create: so many at once, which is a queued resource
  --valid_until=TIME   create: how long to queue, such as 6h; without end if left out
  --accelerator=TYPE   create: such as v5litepod-16, v5p-32, v6e-16
  --version=VERSION    create: runtime; the one for the accelerator if left out
  --spot               create: cheaper, and may be taken away at any time
  --worker=N           logs: 0 if left out
  --lines=N            logs: 50 if left out
  --dry_run            print the commands, and run none
END
}

fail() {
  echo "error: $*; see launch/pods/tpu_vm.sh --help" >&2
  exit 2
}

quoted() { # The words as one line that a shell reads back.
  local word separator="" quote="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/$quote}'"
    printf '%s%s' "$separator" "$word"
    separator=" "
  done
}

run() {
  if [[ -n $dry_run ]]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

tpus() { # VERB ARGUMENTS...
  local verb="$1"
  shift
  run gcloud compute tpus "$group" "$verb" "$@" "${place[@]}"
}

on_workers() { # COMMAND
  tpus ssh "$name" "${everywhere[@]}" --command="$1"
}

worker_sh() { # COMMAND ARGUMENTS...
  quoted bash poolformer_jax/launch/pods/worker.sh "$@"
}

runtime_version() {
  case "$accelerator" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) fail "--accelerator=$accelerator is not known here; give its --version too" ;;
  esac
}

create() {
  local flags
  [[ -n $accelerator ]] || fail "--accelerator is missing, such as --accelerator=v5litepod-16"
  [[ -n $version ]] || version="$(runtime_version)"
  flags=(--accelerator-type="$accelerator")
  if [[ $group == tpu-vm ]]; then
    flags+=(--version="$version")
  elif [[ $slices -gt 1 ]]; then
    flags+=(--runtime-version="$version" --node-count="$slices" --node-prefix="$name")
  else
    flags+=(--runtime-version="$version" --node-id="$name")
  fi
  [[ -z $spot ]] || flags+=(--spot)
  [[ -z $valid_until ]] || flags+=(--valid-until-duration="$valid_until")
  tpus create "$name" "${flags[@]}"
}

install() {
  local archive="${TMPDIR:-/tmp}/poolformer_jax.tar.gz" unpack
  if [[ -n "$(git -C "$repo" status --porcelain)" ]]; then
    echo "warning: uncommitted changes are not copied" >&2
  fi
  run git -C "$repo" archive --format=tar.gz --prefix=poolformer_jax/ --output="$archive" HEAD
  tpus scp "$archive" "$name:" "${everywhere[@]}"
  unpack="rm -rf poolformer_jax && tar -xzf poolformer_jax.tar.gz"
  on_workers "$unpack && $(worker_sh install)"
}

train() {
  local flag
  for flag in config workdir; do
    [[ " ${arguments[*]-}" == *" --$flag="* ]] || fail "--$flag=... of launch.train is missing after --"
  done
  on_workers "$(worker_sh start "${arguments[@]}")"
}

status() {
  if [[ $group == tpu-vm ]]; then
    tpus describe "$name" --format="value(state)"
  else
    tpus describe "$name" --format="value(state.state)"
  fi
  on_workers "$(worker_sh status)"
}

logs() { tpus ssh "$name" --worker="$worker" --command="$(worker_sh log "$lines")"; }

stop() { on_workers "$(worker_sh stop)"; }

run_everywhere() {
  [[ ${#arguments[@]} -gt 0 ]] || fail "the command to run is missing after --"
  on_workers "${arguments[*]}"
}

delete() {
  local flags=(--quiet)
  [[ $group == tpu-vm ]] || flags+=(--force) # Its slices too.
  tpus delete "$name" "${flags[@]}"
}

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
name="" zone="" project="" accelerator="" version="" spot="" valid_until="" dry_run=""
group=tpu-vm slices=1 worker=0 lines=50
arguments=()

[[ $# -gt 0 ]] || { usage >&2; exit 2; }
command="$1"
shift
case "$command" in
  create | install | train | status | logs | stop | run | delete) ;;
  help | -h | --help) usage; exit ;;
  *) fail "no command '$command'" ;;
esac
while [[ $# -gt 0 ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --queued) group=queued-resources ;;
    --slices=*) slices="${1#*=}" group=queued-resources ;;
    --valid_until=*) valid_until="${1#*=}" ;;
    --accelerator=*) accelerator="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --spot) spot=yes ;;
    --worker=*) worker="${1#*=}" ;;
    --lines=*) lines="${1#*=}" ;;
    --dry_run) dry_run=yes ;;
    -h | --help) usage; exit ;;
    --) shift; arguments=("$@"); break ;;
    *) fail "'$1' is no option of $command; flags of launch.train come after --" ;;
  esac
  shift
done

[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
  fail "--name='$name' must be lower-case letters, digits and hyphens, a letter first"
[[ $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "--zone='$zone' must be a zone such as us-west4-a"
[[ $slices =~ ^[1-9][0-9]*$ ]] || fail "--slices='$slices' must be a number from 1"
[[ $worker =~ ^[0-9]+$ ]] || fail "--worker='$worker' must be a number from 0"
[[ $lines =~ ^[1-9][0-9]*$ ]] || fail "--lines='$lines' must be a number from 1"
[[ -z $valid_until || $group == queued-resources ]] || fail "--valid_until needs --queued"
if [[ ${#arguments[@]} -gt 0 && $command != train && $command != run ]]; then
  fail "$command takes nothing after --"
fi
[[ -n $dry_run ]] || command -v gcloud >/dev/null ||
  fail "gcloud is not installed (https://cloud.google.com/sdk/docs/install)"

place=(--zone="$zone")
[[ -z $project ]] || place+=(--project="$project")
everywhere=(--worker=all)
[[ $group == tpu-vm ]] || everywhere+=(--node=all)

if [[ $command == run ]]; then
  run_everywhere
else
  "$command"
fi
