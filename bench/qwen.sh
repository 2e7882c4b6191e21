#!/usr/bin/env bash
# Qwen2.5-VL, 50 million parameters with random weights, against Transformers and PEFT: alternating, in one run.
# QWEN_FROM names a folder with the files of a Qwen2.5-VL tokenizer and processor of at most 16,384 tokens.
# SECONDS_EACH (default 20) per measurement, ROUNDS (default 3) of them, THREADS (default 2).
set -euo pipefail
cd "$(dirname "$0")/.."
from=${QWEN_FROM:-${DCSFT_SHARED:+$DCSFT_SHARED/golden/ckpt}}
[ -n "$from" ] || {
  echo "QWEN_FROM: which folder has the tokenizer and processor files?" >&2
  exit 2
}
python=${BENCH_PYTHON:-}
if [ -z "$python" ]; then
  [ -d bench/.venv ] || python3 -m venv bench/.venv
  python=bench/.venv/bin/python
  "$python" -c 'import torch, transformers, peft, PIL' 2>/dev/null ||
    "$python" -m pip install --quiet torch torchvision numpy pillow safetensors accelerate transformers peft
fi
cargo build --release --locked --workspace --example bench_models
program=${CARGO_TARGET_DIR:-target}/release/examples/bench_models
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" bench/qwen_shape.py "$folder" --from "$from" --size 50m 2>/dev/null
seconds=${SECONDS_EACH:-20}
threads=${THREADS:-2}
# The faster of the two attentions of Transformers on this shape.
attention=${ATTENTION:-sdpa}
for _ in $(seq "${ROUNDS:-3}"); do
  for part in lora full rollout; do
    "$python" bench/qwen_peer.py "$folder" "$part" --threads "$threads" --seconds "$seconds" --attention "$attention" 2>/dev/null
    # As the program starts its workers.
    MIMALLOC_PURGE_DELAY=-1 RAYON_NUM_THREADS=$threads "$program" "$folder" "$part" "$seconds"
  done
done | tee bench/qwen.jsonl | "$python" bench/table.py
