#!/usr/bin/env bash
# Runs every command of docs/tutorial.md. Usage: docs/tutorial.sh DATA OUT, where DATA holds replogle2022_uprank.h5ad, op3_lfc.h5ad,
# their .splits.csv and embeddings/*.h5ad.
set -euo pipefail
data=$1 out=$2
panmodal inspect "$data/replogle2022_uprank.h5ad"
panmodal inspect "$data/embeddings/network_string_netmf128.h5ad" --screen "$data/replogle2022_uprank.h5ad"
panmodal run --screen "$data/replogle2022_uprank.h5ad" --splits "$data/replogle2022_uprank.splits.csv" \
  --embedding string="$data/embeddings/network_string_netmf128.h5ad" --embedding text="$data/embeddings/text_ncbi_lsa128.h5ad" \
  --embedding go="$data/embeddings/annotation_go_svd128.h5ad" --embedding humap="$data/embeddings/network_humap_netmf128.h5ad" \
  --out "$out"
panmodal run --screen "$data/op3_lfc.h5ad" --splits "$data/op3_lfc.splits.csv" \
  --embedding ecfp="$data/embeddings/compound_ecfp2000.h5ad" --permuted --out "$out"
panmodal leaderboard "$out" --html "$out/board.html"
panmodal leaderboard "$out" --metric PDS_cosine --top 3
panmodal leaderboard "$out" --metric Pearson_centred --fallback common --top 3
panmodal inspect "$out"
