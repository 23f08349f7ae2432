#!/usr/bin/env bash
# N processes on this machine as one program.
#
#   launch/local.sh N COMMAND ARGUMENTS...        for example
#   launch/local.sh 2 train --config=configs/tiny.py:task=twod --workdir runs/two --config.mesh.fsdp=2
#
# Assumes: igllm is installed for `python` (or $PYTHON). With NVIDIA GPUs, process i takes GPU i (and N is at most their
# number); without, each takes DEVICES CPU devices (default 1). Ctrl-C or SIGTERM reaches all: they save and end. When
# one fails, the others are stopped, and the script ends with its exit code.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
gpus=0
if [[ ${JAX_PLATFORMS:-} != cpu ]] && command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi --list-gpus | wc -l)
  if ((gpus > 0 && count > gpus)); then
    echo "error: $count processes, but $gpus GPUs; set JAX_PLATFORMS=cpu for CPU devices" >&2
    exit 2
  fi
fi

export IGLLM_COORDINATOR=127.0.0.1:$port IGLLM_NUM_PROCESSES=$count
pids=()
for ((i = 0; i < count; i++)); do
  if ((gpus > 0)); then
    CUDA_VISIBLE_DEVICES=$i IGLLM_PROCESS_ID=$i "$python" -m igllm_jax "$@" &
  else
    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${DEVICES:-1} IGLLM_PROCESS_ID=$i "$python" -m igllm_jax "$@" &
  fi
  pids+=($!)
done

interrupted=0
stop() {
  interrupted=1
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap stop INT TERM
result=0
for _ in "${pids[@]}"; do
  interrupted=1
  while ((interrupted)); do # a signal ends the waiting, not a process
    interrupted=0 code=0
    wait -n || code=$?
  done
  if ((code != 0 && code != 127 && result == 0)); then # 127: all were waited for
    result=$code
    kill -TERM "${pids[@]}" 2>/dev/null || true
  fi
done
exit "$result"
