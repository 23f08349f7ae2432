#!/usr/bin/env bash
# What BENCHMARKS.md wants from a GPU: the exact calls. `bash benchmarks/gpu.sh` on one H100 or H200 (weights are
# random, drawn on the GPU); `SIZE=small bash benchmarks/gpu.sh` tries the same calls on any machine, a CPU included.
# STEPS="3 4" runs those alone. Needs the extras [cuda,torch] of pyproject.toml and the GPU to itself: the sides hold
# their memory at once, so each may take less than half of it.
set -euo pipefail
cd "$(dirname "$0")/.."
SIZE=${SIZE:-7b}
PYTHON=${PYTHON:-python}
STEPS=${STEPS:-1 2 3 4}
if [ "$SIZE" = 7b ]; then
  BATCHES=${BATCHES:-"4 8"} PEER_BATCHES=${PEER_BATCHES:-"2 4"} DECODE=${DECODE:-64} TOKENS=${TOKENS:-256}
  DTYPE=bfloat16 KERNEL=${KERNEL:-cudnn} REMATS=${REMATS:-"qkvctx none"} ROUNDS=${ROUNDS:-5} CHECK=${CHECK:-medium}
  PEERS=${PEERS:-"eager compiled"}
else
  BATCHES=${BATCHES:-2} PEER_BATCHES=${PEER_BATCHES:-1} DECODE=${DECODE:-2} TOKENS=${TOKENS:-4}
  DTYPE=float32 KERNEL=${KERNEL:-xla} REMATS=${REMATS:-qkvctx} ROUNDS=${ROUNDS:-2} CHECK=${CHECK:-small}
  PEERS=${PEERS:-eager}
fi
# JAX takes memory as it needs it, so that PyTorch beside it finds its own; a program is compiled once for all steps.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(mktemp -d)}
train="$PYTHON benchmarks/train_step.py"
decode="$PYTHON benchmarks/decode.py"
sized="--size $SIZE --dtype $DTYPE --own_weights"
kernel="--config.model.decoder.attention=$KERNEL"

for step in $STEPS; do
  case $step in
    1) # The same work on both sides: equal losses and answers, in float32 proper, at a size that fits beside its files.
      JAX_DEFAULT_MATMUL_PRECISION=highest $train --size "$CHECK" --dtype float32 --batch 2 --rounds 1 --sides ours,eager
      JAX_DEFAULT_MATMUL_PRECISION=highest $decode --size "$CHECK" --dtype float32 --images 4 --new_tokens 16 --rounds 1 \
        --sides ours,dynamic
      ;;
    2) # Each side alone, at each batch, to find its best one.
      for remat in $REMATS; do
        for batch in $BATCHES; do
          $train $sized --batch "$batch" --rounds "$ROUNDS" --sides ours $kernel --config.model.decoder.remat="$remat" \
            || echo "ours fails at batch $batch with $remat"
        done
      done
      for peer in $PEERS; do
        for batch in $PEER_BATCHES; do
          for checkpointing in "" --peer_checkpointing; do
            $train $sized --batch "$batch" --rounds "$ROUNDS" --sides "$peer" $checkpointing \
              || echo "PyTorch ($peer) fails at batch $batch $checkpointing"
          done
        done
      done
      ;;
    3) # Both in turns, each at the best batch that step 2 showed: set BEST, PEER_BEST, REMAT and PEER to what it printed.
      $train $sized --rounds "$ROUNDS" --sides "ours,${PEER:-eager}" --batch "${BEST:-${BATCHES%% *}}" \
        --peer_batch "${PEER_BEST:-${PEER_BATCHES%% *}}" $kernel --config.model.decoder.remat="${REMAT:-${REMATS%% *}}"
      ;;
    4) # Decoding: share of the bandwidth bound, and PyTorch's ways beside it. Random answers hold nothing to guess; with
       # RUN (a run with LLaMA's tokenizer) and PICTURES (a tar of two batches) real ones are written, with guesses too.
      $decode $sized --images "$DECODE" --new_tokens "$TOKENS" --rounds 3 --sides unguessed,dynamic,static $kernel
      if [ -n "${RUN:-}" ]; then
        $decode --run "$RUN" --pictures "$PICTURES" --images "$DECODE" --new_tokens "$TOKENS" --rounds 3 \
          --sides ours,unguessed,dynamic,static
      fi
      ;;
  esac
done
