#!/usr/bin/env bash
# One of the two job sets of launch/k8s.yaml, from its start to its end.
#
#   launch/k8s.sh [--dry_run] tpu|gpu IMAGE BUCKET        for example
#   launch/k8s.sh gpu registry.example/igllm:cuda my-bucket
#
# Puts IMAGE and BUCKET into the file, asks the cluster for the job set, waits for its end and fetches its pods' logs.
# --dry_run prints every command, and what would be applied, and runs none.
#
# Assumes: kubectl is installed and speaks to a cluster as k8s.yaml assumes it; the data lie where that file says. Also
# read: NAMESPACE (default: kubectl's own), POLL_SECONDS (between looks at its state, 30), LOGS (folder for logs, default
# logs/igllm-tpu or logs/igllm-gpu). What is interrupted here goes on in the cluster: the same command waits for it again.
set -euo pipefail

dry_run=""
if [[ ${1:-} == --dry_run ]]; then
  dry_run=1
  shift
fi
if [[ $# -ne 3 || ! $1 =~ ^(tpu|gpu)$ ]]; then
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
machine=$1 image=$2 bucket=$3
if [[ ! $bucket =~ ^[a-z0-9][a-z0-9._-]*$ || ! $image =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]]; then
  echo "error: $image and $bucket: expected a container image and the name of a bucket, without gs://" >&2
  exit 2
fi
name=igllm-$machine
logs=${LOGS:-logs/$name}
poll=${POLL_SECONDS:-30}
kube=(kubectl ${NAMESPACE:+--namespace="$NAMESPACE"})
filled=$(sed -e "s#image: IMAGE\$#image: $image#" -e "s#gs://BUCKET/#gs://$bucket/#g" "$(dirname "$0")/k8s.yaml")

if [[ $dry_run ]]; then
  printf '%s\n' "$filled"
  echo "# the above to: ${kube[*]} apply -l machine=$machine -f -"
  echo "# until it prints Completed or Failed: ${kube[*]} get jobset $name -o jsonpath={.status.terminalState}"
  echo "# ${kube[*]} logs -l jobset.sigs.k8s.io/jobset-name=$name --prefix --tail=-1 > $logs/pods.log"
  exit
fi

"${kube[@]}" apply -l "machine=$machine" -f - <<< "$filled"
state=""
until [[ $state == Completed || $state == Failed ]]; do
  sleep "$poll"
  state=$("${kube[@]}" get jobset "$name" -o 'jsonpath={.status.terminalState}') # a set that is gone is an error
done
mkdir -p "$logs"
"${kube[@]}" logs -l "jobset.sigs.k8s.io/jobset-name=$name" --prefix --tail=-1 > "$logs/pods.log" || true
if [[ $state == Failed ]]; then
  echo "error: $name failed; see $logs/pods.log" >&2
  exit 1
fi
