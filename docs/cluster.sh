#!/usr/bin/env bash
# Runs every command of the tutorial in docs/cluster.md. Usage: docs/cluster.sh OUT. Needs pip install 'panmodal[cluster]'.
set -euo pipefail
out=$1
mkdir -p "$out"
panmodal simulate "$out/cells.h5ad" --cells 8000 --perturbations 80 --genes 300
panmodal prepare "$out/cells.h5ad" --out "$out/screen.h5ad"
embeddings=()
for file in "$out"/cells-embeddings/*; do embeddings+=(--embedding "$file"); done

# A scheduler and two workers: on a cluster, each on a machine of its own.
dask scheduler --scheduler-file "$out/scheduler.json" --port 0 --no-dashboard > "$out/scheduler.log" 2>&1 &
scheduler=$!
dask worker --scheduler-file "$out/scheduler.json" --nworkers 2 --nthreads 1 --no-dashboard --local-directory "$out" > "$out/worker.log" 2>&1 &
workers=$!
trap 'kill $scheduler $workers 2> /dev/null || true' EXIT

panmodal demo --out "$out/demo" --dask "$out/scheduler.json"

panmodal run --screen "$out/screen.h5ad" "${embeddings[@]}" --out "$out/results" --dask "$out/scheduler.json" &
run=$!

# In the middle of it a worker process is killed, as a batch system does that takes a machine back; its nanny starts another.
until compgen -G "$out/results/trials/*/*" > /dev/null; do sleep 0.1; kill -0 $run; done
pkill -9 -n -P "$workers" -f spawn_main && echo "Killed a worker."
wait $run

# Given again, the command finds all trials done.
panmodal run --screen "$out/screen.h5ad" "${embeddings[@]}" --out "$out/results" --dask "$out/scheduler.json"

# The same on this machine alone must be the same.
panmodal run --screen "$out/screen.h5ad" "${embeddings[@]}" --out "$out/here" --jobs 2
python - "$out" <<'PYTHON'
import sys
import pandas as pd

labels = ["context", "embedding", "probe", "fold", "fallback", "metric"]
tables = [pd.read_parquet(f"{sys.argv[1]}/{name}/scores.parquet").sort_values(labels) for name in ("results", "here")]
print(len(tables[0]), "scores, the same:", tables[0].reset_index(drop=True).equals(tables[1].reset_index(drop=True)))
PYTHON
