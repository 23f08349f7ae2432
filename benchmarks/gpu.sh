#!/usr/bin/env bash
# What BENCHMARKS.md wants from a GPU: the exact calls. `bash benchmarks/gpu.sh` on one H200 (weights are random);
# `SIZE=small bash benchmarks/gpu.sh` tries the same calls on any machine, a CPU included.
# Needs the extras [cuda,torch] of pyproject.toml, 80 GB of disk for two sets of float32 weights under TMPDIR, and the
# GPU to itself. The sides hold their memory at once, so each may take less than half of the GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
SIZE=${SIZE:-7b}
PYTHON=${PYTHON:-python}
if [ "$SIZE" = 7b ]; then
  BATCHES=${BATCHES:-"2 4 8 12"} PEER_BATCHES=${PEER_BATCHES:-"1 2 4 8"} DECODE=${DECODE:-64} TOKENS=${TOKENS:-256}
  DTYPE=bfloat16 KERNEL=${KERNEL:-cudnn} REMATS=${REMATS:-"qkvctx full none"} ROUNDS=${ROUNDS:-7} OURS=ours,eager
else
  BATCHES=${BATCHES:-2} PEER_BATCHES=${PEER_BATCHES:-1} DECODE=${DECODE:-2} TOKENS=${TOKENS:-4}
  DTYPE=float32 KERNEL=${KERNEL:-xla} REMATS=${REMATS:-qkvctx} ROUNDS=${ROUNDS:-2} OURS=ours,eager
fi
# JAX takes memory as it needs it, so that PyTorch beside it finds its own.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

# 1. The same work on both sides: equal losses at one batch, dropout off while they are compared.
$PYTHON benchmarks/train_step.py --size "$SIZE" --dtype float32 --batch 1 --rounds 1 --sides $OURS

# 2. Each side alone, at each batch, to find its best one.
for remat in $REMATS; do
  for batch in $BATCHES; do
    $PYTHON benchmarks/train_step.py --size "$SIZE" --dtype $DTYPE --batch "$batch" --rounds "$ROUNDS" --sides ours \
      --config.model.decoder.attention="$KERNEL" --config.model.decoder.remat="$remat" || echo "batch $batch with $remat fails"
  done
done
for batch in $PEER_BATCHES; do
  for checkpointing in "" --peer_checkpointing; do
    $PYTHON benchmarks/train_step.py --size "$SIZE" --dtype $DTYPE --batch "$batch" --rounds "$ROUNDS" --sides eager $checkpointing \
      || echo "PyTorch fails at batch $batch $checkpointing"
    if [ "$SIZE" = 7b ]; then
      $PYTHON benchmarks/train_step.py --size "$SIZE" --dtype $DTYPE --batch "$batch" --rounds "$ROUNDS" --sides compiled $checkpointing \
        || echo "compiled PyTorch fails at batch $batch $checkpointing"
    fi
  done
done

# 3. Both in turns, each at the best batch that step 2 showed: set BEST, PEER_BEST, REMAT and PEER to what it printed.
$PYTHON benchmarks/train_step.py --size "$SIZE" --dtype $DTYPE --rounds "$ROUNDS" --sides "ours,${PEER:-eager}" \
  --batch "${BEST:-${BATCHES%% *}}" --peer_batch "${PEER_BEST:-${PEER_BATCHES%% *}}" \
  --config.model.decoder.attention="$KERNEL" --config.model.decoder.remat="${REMAT:-${REMATS%% *}}"

# 4. Decoding: share of the bandwidth bound, and PyTorch's ways beside it.
$PYTHON benchmarks/decode.py --size "$SIZE" --dtype $DTYPE --images "$DECODE" --new_tokens "$TOKENS" --rounds 3 --sides ours \
  --config.model.decoder.attention="$KERNEL"
$PYTHON benchmarks/decode.py --size "$SIZE" --dtype $DTYPE --images "$DECODE" --new_tokens "$TOKENS" --rounds 3 \
  --sides ours,dynamic,static --config.model.decoder.attention="$KERNEL"
