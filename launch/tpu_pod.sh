#!/usr/bin/env bash
# One command on every host of a Cloud TPU slice, which is asked for where it is not there, and again when it is taken away.
#
#   launch/tpu_pod.sh [--dry_run] NAME ZONE TYPE COMMAND ARGUMENTS...        for example
#   SPOT=1 launch/tpu_pod.sh pod-a us-west4-a v5litepod-16 train --config=clevr --workdir gs://my-bucket/clevr
#
# TYPE as gcloud knows it (v5litepod-16, v6e-8, v4-8, v5p-8). --dry_run prints every command and runs none.
#
# Assumes: gcloud is installed and logged in, its project is set and may create TPUs in ZONE; this folder is the
# checkout to run; the hosts reach PyPI, and GitHub where their own Python is older than 3.11 (uv then fetches 3.12);
# --workdir and the data lie in a bucket that the slice's service account may read and write, or where every host sees
# them under one path: MOUNT, if set, is a command that mounts it on each host. Also read: VERSION (runtime image, by
# default that of the type), SPOT=1 (a cheaper slice that may be taken away), ACCOUNT (service account), RETRIES (how often
# a slice that was taken away is asked for again, 20), POLL_SECONDS (between looks at its state, 30), LOGS (folder for the
# hosts' logs, default logs/NAME). The slice is a queued resource: Google's queue gives it when there is room. What takes it
# away ends the command, which goes on from its checkpoint on the next one. It is left running: it costs until
#   gcloud compute tpus queued-resources delete NAME --zone ZONE --force
set -euo pipefail

dry_run=""
if [[ ${1:-} == --dry_run ]]; then
  dry_run=1
  shift
fi
if [[ $# -lt 4 ]]; then
  sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2 type=$3
shift 3
case $type in
v4-*) image=tpu-ubuntu2204-base ;;
v5litepod-*) image=v2-alpha-tpuv5-lite ;;
v5p-*) image=v2-alpha-tpuv5 ;;
v6e-*) image=v2-alpha-tpuv6e ;;
*)
  echo "error: unknown type $type; expected v4-N, v5litepod-N, v5p-N or v6e-N" >&2
  exit 2
  ;;
esac
image=${VERSION:-$image}
logs=${LOGS:-logs/$name}
retries=${RETRIES:-20}
poll=${POLL_SECONDS:-30}
root=$(cd "$(dirname "$0")/.." && pwd)
archive=$(mktemp -t igllm.XXXXXX.tar.gz)
trap 'rm -f "$archive"' EXIT

run() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
tpu() { run gcloud compute tpus tpu-vm "$@"; }
queued() { run gcloud compute tpus queued-resources "$@"; }
everywhere() { tpu ssh "$name" --zone="$zone" --worker=all --command="$1"; }
state() { # of the queued resource: ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED...; nothing where there is none
  queued describe "$name" --zone="$zone" --format='value(state.state)' 2>/dev/null || true
}
remove() { queued delete "$name" --zone="$zone" --force --quiet; }
ask() {
  queued create "$name" --node-id="$name" --zone="$zone" --accelerator-type="$type" --runtime-version="$image" \
    ${SPOT:+--spot} ${ACCOUNT:+--service-account="$ACCOUNT"}
}

slice() { # returns when it is there
  local now before=""
  if [[ $dry_run ]]; then
    state
    echo "# where that prints SUSPENDED or FAILED:"
    remove
    echo "# where it prints nothing, or that was deleted; then until it prints ACTIVE:"
    ask
    return
  fi
  while :; do
    now=$(state)
    case $now in
    ACTIVE) return ;;
    "") ask ;;
    SUSPENDED | FAILED) remove ;;
    *) [[ $now == "$before" ]] || echo "$name: $now" >&2 ;;
    esac
    before=$now
    sleep "$poll"
  done
}

is_taken_away() { # whether the slice goes, or has gone; its state follows within a minute
  local looks
  [[ ! $dry_run ]] || return 1
  for ((looks = 0; looks < 3; looks++)); do
    [[ $(state) == ACTIVE ]] || return 0
    sleep "$poll"
  done
  return 1
}

install() { # the program: what git tracks, as it lies here
  local python
  if [[ $dry_run ]]; then
    echo "git -C $root ls-files -z | tar -C $root --null -T - -czf $archive"
  else
    git -C "$root" ls-files -z | tar -C "$root" --null -T - -czf "$archive" || return
  fi
  tpu scp "$archive" "$name:igllm.tar.gz" --zone="$zone" --worker=all || return
  python='{ python3 -c "import sys; sys.exit(sys.version_info < (3, 11))" && python3 -m venv venv; }'
  python+=' || { python3 -m pip install -q --user uv && python3 -m uv venv -q --clear --seed --python 3.12 venv; }'
  everywhere "mkdir -p ~/igllm && tar -xzf ~/igllm.tar.gz -C ~/igllm && cd ~/igllm \
    && { test -d venv || $python; } && sed -i '/^libtpu==/d' constraints.txt && venv/bin/python -m pip install -q -c constraints.txt -e '.[tpu,buckets]'" || return
  if [[ -n ${MOUNT:-} ]]; then
    everywhere "$MOUNT"
  fi
}

fetch_logs() {
  local count hosts size
  run mkdir -p "$logs"
  count=(describe "$name" --zone="$zone" --format='value(networkEndpoints.len())')
  if [[ $dry_run ]]; then
    tpu "${count[@]}"
    # 4 chips a host, 8 on the only host of a small v5e or v6e; v4 and v5p count two cores a chip
    size=${type##*-}
    case $type in
    v4-* | v5p-*) hosts=$((size > 8 ? size / 8 : 1)) ;;
    *) hosts=$((size > 8 ? size / 4 : 1)) ;;
    esac
  else
    hosts=$(tpu "${count[@]}")
  fi
  for ((i = 0; i < hosts; i++)); do
    tpu scp "$name:igllm.log" "$logs/host$i.log" --zone="$zone" --worker="$i" || true
  done
}

command=$(printf '%q ' "$@") # the same on every host; the TPU's metadata tell each which one it is
command="cd ~/igllm && IGLLM_DISTRIBUTED=tpu venv/bin/python -m igllm_jax $command > ~/igllm.log 2>&1"
for ((tries = 0; ; tries++)); do
  code=0
  slice
  { install && everywhere "$command"; } || code=$?
  if ((code == 0 || tries == retries)) || ! is_taken_away; then
    break
  fi
  echo "$name was taken away; it is asked for again ($((tries + 1)) of $retries)" >&2
done
fetch_logs # whatever came out
if ((code != 0)); then
  echo "error: the command failed on at least one host; see $logs" >&2
fi
exit "$code"
