#!/usr/bin/env bash
# Runs every command of docs/tutorial-cells.md. Usage: docs/tutorial-cells.sh DATA OUT, where DATA holds papalexi2021_counts.h5ad.
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
panmodal prepare "$data/papalexi2021_counts.h5ad" --context THP-1 --name papalexi --out "$out/screen.h5ad"
panmodal ceiling "$out/screen.h5ad"
panmodal run --screen "$out/screen.h5ad" --embedding string-netmf --embedding go-svd --out "$out/results"
panmodal leaderboard "$out/results" --metric Pearson --ceiling disjoint_halves --gaps "$out/gaps.csv" --html "$out/board.html"
panmodal run --screen "$out/screen.h5ad" --response deg --embedding string-netmf --embedding go-svd --out "$out/deg"
panmodal leaderboard "$out/deg"
panmodal leaderboard "$out/deg" --metric MCC
python - "$out" <<'PYTHON'
import sys
import pandas as pd

quality = pd.read_parquet(f"{sys.argv[1]}/results/quality.parquet")
columns = ["pert_id", "n_cells", "response_norm", "null_norm", "norm_p", "n_deg", "reliability"]
print(quality[columns].sort_values("reliability", ascending=False).round(3).to_string(index=False))
PYTHON
