#!/usr/bin/env bash
# The engine by size: planning, running and finding finished a study of trivial stages, each a small program that writes
# one line; beside Snakemake and DVC on the same work, as far as PATIENCE seconds (default 300) go. Needs GNU time, and
# for the peers a Python (BENCH_PYTHON) with snakemake and dvc. SIZES (default "1000 10000 100000"), FULL (default 10000)
# the largest that is run from nothing, PEERS (default 1000) the largest for the peers.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${BENCH_PYTHON:-bench/.venv/bin/python}
cargo build --release --locked
dcsft=$PWD/target/release/dcsft
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
patience=${PATIENCE:-300}

# What, how many stages, and a command: seconds and peak memory of it and what it waited for. Fails where it did not end.
measure() {
  local what=$1 size=$2
  shift 2
  local out status=0
  out=$(/usr/bin/time -f '%e %M' timeout "$patience" "$@" 2>&1 >/dev/null) || status=$?
  case $status in
    0) awk -v what="$what" -v size="$size" -v out="$(tail -n 1 <<<"$out")" 'BEGIN {
      split(out, a, " "); printf "| %-28s | %7d | %8.2f | %7.0f |\n", what, size, a[1], a[2] / 1024 }' ;;
    124)
      printf '| %-28s | %7d | %8s | %7s |\n' "$what" "$size" "> $patience" ""
      return 1
      ;;
    *)
      printf '%s of %s failed:\n%s\n' "$what" "$size" "$out" >&2
      exit 1
      ;;
  esac
}

spec() {
  cat <<YAML
dcsft: 1
name: scale-$1
stages:
  one:
    uses: command
    with: {argv: [sh, -c, "echo \${matrix.i} > \"\$DCSFT_OUTPUT_out/line\""], outputs: {out: files}}
    matrix: {i: {range: [1, $1]}}
YAML
}

echo "| command                      |  stages |  seconds | MiB max |"
echo "|---|--:|--:|--:|"
for size in ${SIZES:-1000 10000 100000}; do
  folder=$work/$size
  mkdir "$folder"
  spec "$size" >"$folder/spec.yaml"
  export DCSFT_CACHE=$folder/cache
  measure "dcsft plan, first" "$size" "$dcsft" plan "$folder/spec.yaml" || continue
  if [ "$size" -le "${FULL:-10000}" ]; then
    measure "dcsft run, all executed" "$size" "$dcsft" run -q --no-report -j2 "$folder/spec.yaml" &&
      measure "dcsft run, all cached" "$size" "$dcsft" run -q --no-report -j2 "$folder/spec.yaml" &&
      measure "dcsft run, cached, again" "$size" "$dcsft" run -q --no-report -j2 "$folder/spec.yaml" || true
  fi
  if [ "$size" -gt "${PEERS:-1000}" ]; then
    continue
  fi
  if "$python" -c 'import snakemake' 2>/dev/null; then
    mkdir "$folder/snakemake" && pushd "$folder/snakemake" >/dev/null
    cat >Snakefile <<SNAKE
rule all:
    input: [f"out/{i}.txt" for i in range($size)]
rule one:
    output: "out/{i}.txt"
    shell: "echo {wildcards.i} > {output}"
SNAKE
    measure "snakemake, plan (-n)" "$size" "$python" -m snakemake --cores 2 --quiet all -n || true
    measure "snakemake, all executed" "$size" "$python" -m snakemake --cores 2 --quiet all &&
      measure "snakemake, all finished" "$size" "$python" -m snakemake --cores 2 --quiet all || true
    popd >/dev/null
  fi
  if "$python" -c 'import dvc' 2>/dev/null; then
    mkdir "$folder/dvc" && pushd "$folder/dvc" >/dev/null
    "$python" -m dvc init --quiet --no-scm
    cat >dvc.yaml <<DVC
stages:
  one:
    matrix:
      i: [$(seq -s, 1 "$size")]
    cmd: mkdir -p out && echo \${item.i} > out/\${item.i}.txt
    outs:
      - out/\${item.i}.txt
DVC
    measure "dvc repro, all executed" "$size" "$python" -m dvc repro --quiet &&
      measure "dvc repro, all finished" "$size" "$python" -m dvc repro --quiet || true
    popd >/dev/null
  fi
done
