#!/usr/bin/env bash
# Micro VLM against PyTorch, alternating, in one run. SECONDS_EACH (default 8) per measurement.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${BENCH_PYTHON:-}
if [ -z "$python" ]; then
  [ -d bench/.venv ] || python3 -m venv bench/.venv
  python=bench/.venv/bin/python
  "$python" -c 'import torch' 2>/dev/null || "$python" -m pip install --quiet torch numpy
fi
cargo build --release --locked --workspace --example bench_micro
seconds=${SECONDS_EACH:-8}
threads=${THREADS:-2}
for part in pretrain lora rollout; do
  "$python" bench/torch_peer.py "$part" --threads "$threads" --seconds "$seconds"
  RAYON_NUM_THREADS=$threads target/release/examples/bench_micro "$part" "$seconds"
done | tee bench/micro.jsonl | "$python" bench/table.py
