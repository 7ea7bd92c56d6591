#!/usr/bin/env bash
# Makes the two reports of docs/report.md. Usage: docs/report.sh DATA OUT, where DATA holds replogle2022_uprank.h5ad, op3_lfc.h5ad, their
# .splits.csv and knowledge/. Fingerprints and descriptors need the extra panmodal[chem].
set -euo pipefail
data=$1 out=$2 know=$1/knowledge
mkdir -p "$out"
genes=$data/replogle2022_uprank.h5ad drugs=$data/op3_lfc.h5ad
panmodal embed netmf --edges "$know/string_high_confidence_pairs.csv.gz" --ids "$genes" --out "$out/string.h5ad"
panmodal embed netmf --edges "$know/humap_pairs.csv.gz" --ids "$genes" --out "$out/humap.h5ad"
panmodal embed annotation --terms "$know/go_direct_experimental.tsv.gz" --ids "$genes" --out "$out/go.h5ad"
panmodal embed annotation --terms "$know/reactome_2024.gmt" --ids "$genes" --out "$out/reactome.h5ad"
panmodal embed text-tfidf --texts "$know/ncbi_gene_summaries.json.gz" --ids "$genes" --out "$out/text.h5ad"
panmodal embed fingerprint --compounds "$drugs" --ids "$drugs" --out "$out/ecfp.h5ad"
panmodal embed descriptors --compounds "$know/compounds.csv" --out "$out/descriptors.h5ad"
panmodal run --screen "$genes" --response rank_score --splits "$data/replogle2022_uprank.splits.csv" --name replogle2022-uprank \
  --dataset replogle2022 --permuted --embedding "$out/string.h5ad" --embedding "$out/go.h5ad" --embedding "$out/text.h5ad" \
  --embedding "$out/humap.h5ad" --embedding "$out/reactome.h5ad" --out "$out/replogle"
panmodal run --screen "$drugs" --response lfc --splits "$data/op3_lfc.splits.csv" --name op3 --dataset op3 --permuted \
  --embedding "$out/ecfp.h5ad" --embedding "$out/descriptors.h5ad" --out "$out/op3"
panmodal report "$out/replogle" --out "$out/replogle.html" --title "Replogle 2022: report"
panmodal report "$out/op3" --out "$out/op3.html" --title "OP3: report"
