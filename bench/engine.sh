#!/usr/bin/env bash
# The engine on large specs: a fully cached run of 1,000 stages, and planning 10,000 nodes; beside Snakemake on a
# finished workflow of 1,000 rules. Needs hyperfine and GNU time.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${BENCH_PYTHON:-bench/.venv/bin/python}
cargo build --release --locked
dcsft=$PWD/target/release/dcsft
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Four stages for each of $1 seeds.
spec() {
  cat <<YAML
dcsft: 1
name: bench-$1
matrix: {seed: {range: [1, $1, 1]}}
stages:
  world:
    uses: shapes
    with:
      seed: "\${matrix.seed}"
      counts: {pretrain: 0, cold_start: 2, train: 0, val: 2, rendition: 0, adversarial: 0}
  untrained:
    uses: model
    with: {kind: micro, seed: "\${matrix.seed}"}
  sft:
    uses: sft
    with: {model: "\${untrained}", data: "\${world.cold_start}", steps: 1, batch_size: 2, seed: "\${matrix.seed}"}
  eval:
    uses: eval
    with: {model: "\${sft}", data: "\${world.val}"}
YAML
}
spec 250 >"$work/thousand.yaml"
spec 2500 >"$work/ten_thousand.yaml"
export DCSFT_CACHE=$work/cache

echo "filling the cache with 1,000 stages ..."
"$dcsft" run -q "$work/thousand.yaml" >/dev/null
sync # what filling has left to write is no part of the run
echo "== run of 1,000 cached stages"
hyperfine --warmup 3 --shell=none "$dcsft run -q $work/thousand.yaml"
/usr/bin/time -f 'peak memory: %M KiB' "$dcsft" run -q "$work/thousand.yaml" >/dev/null
echo "== plan of 10,000 nodes"
hyperfine --warmup 1 --shell=none "$dcsft plan --json $work/ten_thousand.yaml"
/usr/bin/time -f 'peak memory: %M KiB' "$dcsft" plan --json "$work/ten_thousand.yaml" >/dev/null

# One stage for each of $1 seeds: a study of many cells of one kind.
wide() {
  cat <<YAML
dcsft: 1
name: wide
stages:
  world:
    uses: shapes
    with: {seed: "\${matrix.seed}", counts: {pretrain: 0, cold_start: 2, train: 0, val: 2, rendition: 0, adversarial: 0}}
    matrix: {seed: {range: [1, $1]}}
YAML
}
wide 1 >"$work/one.yaml"
wide 100000 >"$work/wide.yaml"
echo "== first plan of 100,000 stages"
/usr/bin/time -f '%e s, peak memory: %M KiB' "$dcsft" plan "$work/wide.yaml"
echo "== run of 100,000 cached stages"
"$dcsft" run -q "$work/one.yaml" >/dev/null
"$dcsft" plan --json "$work/wide.yaml" | cargo run -q --release --locked --example finished_stages "$DCSFT_CACHE"
for _ in 1 2; do
  /usr/bin/time -f '%e s, peak memory: %M KiB' "$dcsft" run -q --no-report "$work/wide.yaml" | tail -n 1
done

if "$python" -c 'import snakemake' 2>/dev/null; then
  echo "== the peer: Snakemake, 1,000 finished rules"
  mkdir "$work/peer" && cd "$work/peer"
  cat >Snakefile <<'SNAKE'
rule all:
    input: [f"out/{i}.txt" for i in range(1000)]
rule one:
    output: "out/{i}.txt"
    shell: "echo {wildcards.i} > {output}"
SNAKE
  "$python" -m snakemake --cores 2 --quiet all >/dev/null 2>&1
  hyperfine --warmup 1 --shell=none "$python -m snakemake --cores 2 --quiet all"
fi
