#!/usr/bin/env bash
# The paper's classification spec in miniature, on the CPU: the same file, with overrides only. It takes a tiny
# checkpoint in Qwen2.5-VL's layout and a folder of small photographs in the official layout (as experiments/photos.yaml
# does: pretrain.json, train.json, val.json, ood_*.json), and needs a few minutes.
#   experiments/paper/miniature.sh CHECKPOINT PHOTOS [run|plan|results|...] [further flags]
# DCSFT names the binary; by default the one in target/release.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,6p' "$0" | cut -c3- >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
checkpoint=$(cd "$1" && pwd)
photos=$(cd "$2" && pwd)
command=${3:-run}
shift $(($# < 3 ? $# : 3))

# An untrained checkpoint has to learn the task first, so the cold start is longer and faster than the paper's. It gets
# hardly a sample right 8 times out of 8: 3 times count as easy.
exec "${DCSFT:-$here/../../target/release/dcsft}" "$command" "$here/imagenet_3b.yaml" \
  --set name=imagenet-miniature \
  --set vars.checkpoint="$checkpoint" --set vars.lists="$photos" --set vars.image_root="$photos" \
  --set vars.files='{cold_start: pretrain.json, train: train.json, val: val.json, sketch: ood_sketch.json, painting: ood_painting.json}' \
  --set stages.ood.matrix.set='[sketch, painting]' \
  --set vars.precision=f32 --set vars.repetition_penalty=1.0 \
  --set stages.cold_start.with.steps=800 --set stages.cold_start.with.learning_rate=2e-3 \
  --set stages.cold_start.with.batch_size=16 --set stages.cold_start.with.gradient_accumulation=1 \
  --set stages.sft.with.batch_size=16 --set stages.sft.with.gradient_accumulation=1 \
  --set stages.train.with.limit=800 --set stages.val.with.limit=500 --set stages.ood.with.limit=300 \
  --set stages.difficulty.with.bins='{easy: "c >= 3", medium: "0 < c < 3", hard: "0"}' \
  --set stages.rollouts.with.max_new_tokens=16 --set stages.grpo.with.max_new_tokens=16 \
  --set stages.grpo.with.forward_batch=0 \
  --set vars.steps=60 --set vars.save_steps=20 --set vars.learning_rate=5e-4 \
  --set stages.eval_sft_id.matrix.step='[20, 60]' --set stages.eval_sft_ood.matrix.step='[20, 60]' \
  --set stages.eval_grpo_id.matrix.step='[20, 60]' --set stages.eval_grpo_ood.matrix.step='[20, 60]' \
  "$@"
