"""Do fusions beat the best single embedding on the Replogle 2022 knockdowns? The table of docs/fusion.md.

Runs four gene embeddings with all probes, all fusions of the four that need no PyTorch, and each method whose gain could be its own
over every embedding alone, on the folds given; then prints what each fusion gains over the best single embedding with its probe.
Trials already in OUT are not computed again. A file that is not there is said and skipped, embeddings down to two.

    python benchmarks/fusion_replogle.py DATA OUT               # DATA as for docs/tutorial.sh
    python benchmarks/fusion_replogle.py DATA OUT --attention   # the attention model too (PyTorch; --device cuda)
    python benchmarks/fusion_replogle.py DATA OUT --embedding esm=esm.h5ad --embedding string=string.h5ad
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pandas as pd

from panmodal.errors import PanmodalError
from panmodal.evaluation.api import run_config
from panmodal.evaluation.config import EmbeddingInput, FusionInput, RunConfig
from panmodal.evaluation.evidence import read_evidence
from panmodal.fusion.base import fusions
from panmodal.insight import fusion
from panmodal.insight.terminal import number

SCREEN, FOLDS = "replogle2022_uprank.h5ad", "replogle2022_uprank.splits.csv"
EMBEDDINGS = {
    "string": "network_string_netmf128.h5ad",
    "humap": "network_humap_netmf128.h5ad",
    "go": "annotation_go_svd128.h5ad",
    "text": "text_ncbi_lsa128.h5ad",
}
ALONE = ("kernels",)
"""Methods that are run over each embedding alone too: what is left of their gain is due to combining."""
ATTENTION = (
    "attention(preset=small)",
    "attention(preset=small, members=5)",
    "attention(preset=simple)",
    "attention(preset=full)",
)


def find(data: Path, given: list[str]) -> list[EmbeddingInput]:
    """Find the embeddings that are there, and say which are not."""
    asked = [EmbeddingInput.parse(g) for g in given]
    asked = asked or [EmbeddingInput(path=str(data / "embeddings" / f), name=n) for n, f in EMBEDDINGS.items()]
    found = []
    for one in asked:
        if Path(one.path.partition("#")[0]).exists():
            found.append(one)
        else:
            print(f"skipped {one.name or one.path}: there is no file {one.path}.")
    return found


def wanted(names: list[str], attention: bool, alone: bool) -> list[FusionInput]:
    """Choose all fusions that can be run, over all embeddings, and some over each alone."""
    found = []
    for name, one in fusions().items():
        if name == "attention":
            continue
        if one.missing():
            print(f"skipped {name}: it needs {one.module} (panmodal[{one.extra}]).")
        else:
            found.append(FusionInput.parse(name))
    if attention:
        kinds = [FusionInput.parse(text) for text in ATTENTION]
        if "attention" not in fusions() or fusions()["attention"].missing():
            print("skipped attention: it is not installed (panmodal[deep]).")
        else:
            # Presets go by names of their own: the name of a method does not tell its options.
            found += [k.model_copy(update={"name": f"{k.options['preset']}-preset"}) for k in kinds]
    if alone:
        found += [FusionInput(method=m, name=f"{n}-alone", of=(n,)) for m in ALONE for n in names]
    return found


def interval(low: float, high: float, digits: int = 2) -> str:
    """Write an interval in brackets."""
    return f"({number(low, digits)} to {number(high, digits)})"


def printed(gains: pd.DataFrame) -> list[str]:
    """Write the gains as a Markdown table: L2 and perturbation discrimination, and what combining adds."""
    lines = [
        "| line | method | L2 | gain over the best single | improved | PDS_cosine | gain | combining gains (L2) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for context, own in gains.groupby("context", sort=False):
        wide = {m: part.set_index(["embedding", "probe"]) for m, part in own.groupby("metric", sort=False)}
        first = wide["L2"].iloc[0]
        pds = wide["PDS_cosine"]["single_value"].iloc[0]
        single = f"{first['single']} with {first['single_probe']} (the best single)"
        lines.append(f"| {context} | {single} | {first['single_value']:.2f} | | | {pds:.3f} | | |")
        for key, row in wide["L2"].iterrows():
            beside = wide["PDS_cosine"].loc[key]
            bundle, method = key
            name = method if bundle == "fusion" else f"{method} ({bundle})"
            added = (f"{number(row['gain_alone'], 2)} {interval(row['alone_low'], row['alone_high'])} over {row['alone']}"
                     if row["alone"] else "")  # fmt: skip
            gain = f"{number(row['gain'], 2)} {interval(row['gain_low'], row['gain_high'])}"
            of_pds = f"{number(beside['gain'], 3)} {interval(beside['gain_low'], beside['gain_high'], 3)}"
            lines.append(f"| {context} | {name} | {row['value']:.2f} | {gain} | {100 * row['improved']:.0f} % | "
                         f"{beside['value']:.3f} | {of_pds} | {added} |")  # fmt: skip
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help=f"folder of {SCREEN}, {FOLDS} and embeddings/")
    parser.add_argument("out", type=Path, help="results folder")
    parser.add_argument("--embedding", action="append", default=[], help="NAME=FILE instead of the four (repeat)")
    parser.add_argument("--attention", action="store_true", help="the attention model too")
    parser.add_argument("--no-alone", action="store_true", help="no method over single embeddings")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--n-jobs", type=int, default=None)
    parser.add_argument("--csv", type=Path, help="file for the whole table of gains")
    given = parser.parse_args()
    for name in (SCREEN, FOLDS):
        if not (given.data / name).exists():
            print(f"skipped: there is no {given.data / name}.")
            return 0
    embeddings = find(given.data, given.embedding)
    if len(embeddings) < 2:
        print(f"skipped: {len(embeddings)} embedding(s) are there; a fusion needs two.")
        return 0
    names = [e.name or e.load_all()[0].name for e in embeddings]
    config = RunConfig(
        screen=str(given.data / SCREEN), splits=str(given.data / FOLDS), name="replogle2022-uprank", response="rank_score",
        embeddings=tuple(embeddings), fusions=tuple(wanted(names, given.attention, not given.no_alone)), out=str(given.out),
        metrics=("L2", "Pearson_centred", "PDS_cosine"), device=given.device, n_jobs=given.n_jobs,
    )  # fmt: skip
    started = time.perf_counter()
    results = run_config(config)
    print(
        f"{results.computed} trials computed, {results.reused} there already, {time.perf_counter() - started:.0f} s\n"
    )
    evidence = read_evidence(given.out)
    gains = fusion.fusion_gains(evidence)
    print("\n".join(printed(gains)), "\n")
    for display in fusion.displays(evidence):
        for sentence in display.sentences:
            print(f"- {sentence}")
    if given.csv:
        gains.to_csv(given.csv, index=False)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PanmodalError as error:
        sys.exit(f"error: {error}")
