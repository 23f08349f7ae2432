#!/usr/bin/env bash
# One command on every host of a Cloud TPU slice, which is created where it is not there yet.
#
#   launch/tpu_pod.sh [--dry_run] NAME ZONE TYPE COMMAND ARGUMENTS...        for example
#   launch/tpu_pod.sh --dry_run pod-a us-west4-a v5litepod-16 train --config=configs/clevr.py --workdir /mnt/shared/clevr
#
# TYPE as gcloud knows it (v5litepod-16, v6e-8, v4-8, v5p-8). --dry_run prints every command and runs none.
#
# Assumes: gcloud is installed and logged in, its project is set and may create TPUs in ZONE; this folder is the
# checkout to run; the hosts reach PyPI, and GitHub where their own Python is older than 3.11 (uv then fetches 3.12);
# --workdir and the data lie where every host sees them under one path (a Filestore or NFS share, or a bucket mounted
# with gcsfuse): MOUNT, if set, is a command that mounts it on each host. Also read: VERSION (runtime image, by default
# that of the type), SPOT=1 (a cheaper slice that may be taken away), LOGS (folder for the hosts' logs, default
# logs/NAME). The slice is left running: it costs until you delete it with
#   gcloud compute tpus tpu-vm delete NAME --zone ZONE
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
root=$(cd "$(dirname "$0")/.." && pwd)

run() {
  if [[ $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
tpu() { run gcloud compute tpus tpu-vm "$@"; }
everywhere() { tpu ssh "$name" --zone="$zone" --worker=all --command="$1"; }

# 1. the slice
if [[ $dry_run ]]; then
  tpu describe "$name" --zone="$zone"
  echo "# where that fails:"
fi
if [[ $dry_run ]] || ! tpu describe "$name" --zone="$zone" >/dev/null 2>&1; then
  tpu create "$name" --zone="$zone" --accelerator-type="$type" --version="$image" ${SPOT:+--spot}
fi

# 2. the program: what git tracks, as it lies here
archive=$(mktemp -t igllm.XXXXXX.tar.gz)
trap 'rm -f "$archive"' EXIT
if [[ $dry_run ]]; then
  echo "git -C $root ls-files -z | tar -C $root --null -T - -czf $archive"
else
  git -C "$root" ls-files -z | tar -C "$root" --null -T - -czf "$archive"
fi
tpu scp "$archive" "$name:igllm.tar.gz" --zone="$zone" --worker=all
python='{ python3 -c "import sys; sys.exit(sys.version_info < (3, 11))" && python3 -m venv venv; }'
python+=' || { python3 -m pip install -q --user uv && python3 -m uv venv -q --clear --seed --python 3.12 venv; }'
everywhere "mkdir -p ~/igllm && tar -xzf ~/igllm.tar.gz -C ~/igllm && cd ~/igllm \
  && { test -d venv || $python; } && venv/bin/python -m pip install -q -e '.[tpu]'"
if [[ -n ${MOUNT:-} ]]; then
  everywhere "$MOUNT"
fi

# 3. the command, the same on every host; the TPU's metadata tell each which one it is
command=$(printf '%q ' "$@")
code=0
everywhere "cd ~/igllm && IGLLM_DISTRIBUTED=tpu venv/bin/python -m igllm_jax $command > ~/igllm.log 2>&1" || code=$?

# 4. the logs, whatever came out
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
if ((code != 0)); then
  echo "error: the command failed on at least one host; see $logs" >&2
fi
exit "$code"
