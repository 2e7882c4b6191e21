#!/usr/bin/env bash
# Qwen2.5-VL on a GPU, random weights of the published 3B shape in bf16, against Transformers and PEFT on the same card:
# LoRA SFT (16 samples an update, dropout 0.05), rollouts (8 answers to each prompt), a GRPO step (16 prompts, 8 answers).
# QWEN_FROM names a folder with tokenizer and processor files. PARTS are measured, each SECONDS_EACH (default 15) long and
# given up after LIMIT (default 120) seconds. PROGRAM is the built example `bench_models`; without it it is built here.
# SIZE (default 3b), DEVICE (default cuda:0), IMAGES (prompts of the rollouts, default 64), SIDES (of the images in
# pixels; 224 are 64 image tokens, 896 are 1,024). PEER=0 measures without the peer. DTYPE (default bf16) is f32 on wgpu.
# On a driver that does a GPU's work on the processor: SIZE=2m, IMAGES=16, DEVICE=wgpu, DTYPE=f32, PEER=0, LIMIT=1800.
# What was copied to the device and from it is given too, per step, with rollouts per token; and how many kernels a step, or a
# token of all answers, launches for each layer of the decoder.
set -uo pipefail
cd "$(dirname "$0")/.."
from=${QWEN_FROM:-${DCSFT_SHARED:+$DCSFT_SHARED/golden/ckpt}}
[ -n "$from" ] || {
  echo "QWEN_FROM: which folder has the tokenizer and processor files?" >&2
  exit 2
}
python=${BENCH_PYTHON:-python3}
device=${DEVICE:-cuda:0}
seconds=${SECONDS_EACH:-15}
limit=${LIMIT:-120}
images=${IMAGES:-64}
program=${PROGRAM:-}
if [ -z "$program" ]; then
  cargo build --release --locked --workspace --example bench_models --features "${device%%:*}" || exit
  program=${CARGO_TARGET_DIR:-target}/release/examples/bench_models
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=${OUTPUT:-bench/device.jsonl}
: >"$out"

# What the card holds at most while a command runs, in MiB.
watched() {
  local what=$1
  shift
  : >"$work/used"
  (while :; do
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits
    sleep 0.2
  done >>"$work/used" 2>/dev/null) &
  local watcher=$!
  timeout "$limit" "$@" >"$work/line" 2>"$work/errors"
  local status=$?
  kill "$watcher" 2>/dev/null
  wait "$watcher" 2>/dev/null
  local peak
  peak=$(sort -n "$work/used" | tail -1)
  if [ "$status" = 0 ]; then
    sed "s/^{\"part\": \"[^\"]*\"/{\"part\": \"$what\", \"card_peak_mib\": ${peak:-0}/" "$work/line" | tee -a "$out"
  else
    echo "$what: $1: exit status $status, ${peak:-?} MiB on the card: $(tail -c 600 "$work/errors" | tr '\n' ' ')" | tee -a "$out"
  fi
}

both() {
  local what=$1 folder=$2 part=$3
  [ "${PEER:-1}" = 0 ] || watched "$what" "$python" bench/qwen_peer.py "$folder" "$part" --device "$device" --dtype bfloat16 --random \
    --seconds "$seconds" --threads "$(nproc)"
  watched "$what" "$program" "$folder" "$part" "$seconds" "$device" "${DTYPE:-bf16}" random
}

export BENCH_WARM_UP=${BENCH_WARM_UP:-2}
for side in ${SIDES:-224 896}; do
  folder=$work/$side
  "$python" bench/qwen_shape.py "$folder" --from "$from" --size "${SIZE:-3b}" --no-weights --images "$images" \
    --side "$side" >/dev/null || exit
  for part in ${PARTS:-lora rollout grpo}; do
    case $part in
      lora) BENCH_BATCH=16 BENCH_DROPOUT=0.05 both "lora $side" "$folder" lora ;;
      rollout) BENCH_BATCH=$images both "rollout $side" "$folder" rollout ;;
      grpo) BENCH_BATCH=16 BENCH_PASS=${BENCH_PASS:-64} BENCH_DROPOUT=${BENCH_DROPOUT:-0} both "grpo $side" "$folder" grpo ;;
    esac
  done
done
"$python" bench/table.py <"$out"
