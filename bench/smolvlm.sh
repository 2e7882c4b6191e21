#!/usr/bin/env bash
# SmolVLM2-256M's shape with random weights against Transformers and PEFT: alternating, in one run. An image is one tile of
# 512 x 512 pixels (64 tokens), adapters are on the language model and the connector, as experiments/smolvlm.yaml has it.
# SMOLVLM_FROM names a folder with the files of a SmolVLM2 tokenizer; SECONDS_EACH (default 60) per measurement, ROUNDS
# (default 2) of them, THREADS (default 2), BENCH_BATCH samples a step (default 4).
set -euo pipefail
cd "$(dirname "$0")/.."
from=${SMOLVLM_FROM:-${DCSFT_SHARED:+$DCSFT_SHARED/golden-smolvlm/ckpt}}
[ -n "$from" ] || {
  echo "SMOLVLM_FROM: which folder has the tokenizer files?" >&2
  exit 2
}
python=${BENCH_PYTHON:-}
if [ -z "$python" ]; then
  [ -d bench/.venv ] || python3 -m venv bench/.venv
  python=bench/.venv/bin/python
  "$python" -c 'import torch, transformers, peft, PIL, num2words' 2>/dev/null ||
    "$python" -m pip install --quiet torch torchvision numpy pillow safetensors accelerate transformers peft num2words
fi
cargo build --release --locked --workspace --example bench_models
program=${CARGO_TARGET_DIR:-target}/release/examples/bench_models
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" bench/smolvlm_shape.py "$folder" --from "$from" --size "${SIZE:-256m}" 2>/dev/null
seconds=${SECONDS_EACH:-60}
threads=${THREADS:-2}
export BENCH_BATCH=${BENCH_BATCH:-4} BENCH_WARM_UP=${BENCH_WARM_UP:-1} BENCH_TARGETS=decoder,projector
for _ in $(seq "${ROUNDS:-2}"); do
  for part in lora rollout; do
    "$python" bench/smolvlm_peer.py "$folder" "$part" --threads "$threads" --seconds "$seconds" \
      --attention "${ATTENTION:-sdpa}" 2>/dev/null
    # As the program starts its workers.
    MIMALLOC_PURGE_DELAY=-1 RAYON_NUM_THREADS=$threads "$program" "$folder" "$part" "$seconds"
  done
done | tee bench/smolvlm.jsonl | "$python" bench/table.py
