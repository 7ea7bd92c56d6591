"""How results were made, in sentences and citations: written from the records of the runs, not from what is usual."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from panmodal._version import __version__
from panmodal.errors import PanmodalError, some
from panmodal.evaluation.metrics import METRICS
from panmodal.insight.fusion_parts import FUSION, fused
from panmodal.insight.gaps import DRAWS, ORACLE, TASK
from panmodal.insight.leaderboard import ceiling_name
from panmodal.insight.report_summary import counted, span
from panmodal.screens.ceilings import ESTIMATORS

if TYPE_CHECKING:
    from panmodal.insight.evidence import Evidence

KINDS = {"lfc": "log fold changes", "deg": "labels of differentially expressed genes (-1, 0, 1)", "fitness": "fitness effects",
         "rank_score": "rank scores", "continuous": "continuous values"}  # fmt: skip
PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "numba", "pyarrow", "anndata", "matplotlib", "plotly")
"""Packages whose versions a report tells."""
PAPER = (
    "Multimodal Benchmarking of Foundation Model Representations for Cellular Perturbation Response Prediction, "
    "bioRxiv 2025.06.26.661186",
    "https://doi.org/10.1101/2025.06.26.661186",
)
SOURCES = {
    "knn": ("Cover and Hart 1967, Nearest neighbor pattern classification, IEEE Trans Inf Theory 13:21", "10.1109/TIT.1967.1053964"),
    "lasso": ("Tibshirani 1996, Regression shrinkage and selection via the lasso, J R Stat Soc B 58:267",
              "10.1111/j.2517-6161.1996.tb02080.x"),
    "ridge": ("Hoerl and Kennard 1970, Ridge regression, Technometrics 12:55", "10.1080/00401706.1970.10488634"),
    "logistic": ("Cox 1958, The regression analysis of binary sequences, J R Stat Soc B 20:215", "10.1111/j.2517-6161.1958.tb00292.x"),
    "Spearman": ("Spearman 1904, The proof and measurement of association between two things, Am J Psychol 15:72", "10.2307/1412159"),
    "MCC": ("Matthews 1975, Comparison of the predicted and observed secondary structure of T4 phage lysozyme, Biochim Biophys "
            "Acta 405:442", "10.1016/0005-2795(75)90109-9"),
    "bootstrap": ("Efron and Tibshirani 1993, An Introduction to the Bootstrap, Chapman & Hall", "10.1201/9780429246593"),
}  # fmt: skip
"""Where probes, metrics and intervals come from: text and DOI."""
SOURCES |= {
    "knn_classifier": SOURCES["knn"],
    "ridge_classifier": SOURCES["ridge"],
    "Spearman_centred": SOURCES["Spearman"],
}


@dataclass(frozen=True)
class Citation:
    """What to cite, where it is found, and for what."""

    text: str
    url: str
    used_for: str


def _words(names: Iterable[Any]) -> str:
    found = [str(n) for n in names]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else ""


def short_path(text: Any) -> str:
    """Return the name of a file without its folders; other text as it is."""
    whole = str(text)
    path = re.match(r"^(?:~|[A-Za-z]:)?[/\\]\S*$", whole) is not None
    return re.split(r"[/\\]", whole.rstrip("/\\"))[-1] if path else whole


def methods(evidence: Evidence, board: pd.DataFrame) -> list[str]:
    """Write the methods paragraphs of these results.

    Parameters
    ----------
    evidence
        The results with the records of their runs; what the records do not tell is taken from the tables or left out.
    board
        The leaderboard that is reported.
    """
    return [
        " ".join(part)
        for part in (
            _data(evidence, board),
            _embeddings(evidence),
            _probes(evidence),
            _fusions(evidence),
            _metrics(evidence, board),
            _intervals(evidence, board),
        )
        if part
    ]


def _data(evidence: Evidence, board: pd.DataFrame) -> list[str]:
    text = []
    about = {run["screen"]["name"]: run["screen"] for run in evidence.runs if "screen" in run}
    for (screen, response), own in board.groupby(["screen", "response"], sort=False):
        contexts = list(dict.fromkeys(own["context"].astype(str)))
        described = str(about.get(screen, {}).get("description", ""))
        simulated = " simulated" if own["simulated"].any() else ""
        first = f"Responses of the{simulated} screen {screen} are {KINDS.get(str(response), str(response))} in {some(contexts, 6)}"
        text.append(first + (f" ({described})." if described else "."))
        names = about.get(screen, {}).get("datasets") or []
        if names:
            text.append(f"They are from {_words(names)}.")
    promises = {run["split"]["name"]: run["split"] for run in evidence.runs if "split" in run}
    labels = evidence.scores[[*TASK, "fold", "seed", "n_test"]].drop_duplicates()
    for split, own in labels.groupby("split", sort=False):
        record = promises.get(split, {})
        folds = span(own.groupby(TASK)["fold"].nunique())
        sizes = span(own["n_test"])
        unseen = str(record.get("unseen", "perturbation"))
        seed = (
            "" if "seed" not in record else ", folds as given" if record["seed"] is None else f", seed {record['seed']}"
        )
        text.append(
            f"Split {split} ({folds} folds of {sizes} test perturbations{seed}) leaves out whole "
            f"perturbations{', with every part of a combination' if unseen == 'part' else ''}: the perturbations of a fold "
            "are tested by models that never saw them."
        )
    return text


def _embeddings(evidence: Evidence) -> list[str]:
    shown = evidence.trials.drop_duplicates("embedding")
    by: dict[str, list[str]] = {}
    for row in shown[(shown["role"] == "embedding") & ~fused(shown)].itertuples():
        by.setdefault(str(row.modality), []).append(str(row.embedding))
    text = []
    if by:
        told = "; ".join(f"{modality}: {', '.join(names)}" for modality, names in by.items())
        text.append(f"{counted(sum(map(len, by.values())), 'embedding')} of perturbations were compared ({told}).")
    baselines = sorted(set(evidence.trials.loc[evidence.trials["role"] == "baseline", "probe"]))
    if baselines:
        text.append(f"The floor is the better of the baselines without an embedding ({_words(baselines)}).")
    controls = sorted(set(shown.loc[shown["role"] == "control", "embedding"].astype(str)))
    permuted = [c for c in controls if c.endswith("(permuted)")]
    told_controls = [c for c in controls if c not in permuted]
    if permuted:
        told_controls.append(f"{counted(len(permuted), 'embedding')} with permuted rows")
    if told_controls:
        text.append(f"Controls without information: {_words(told_controls)}.")
    if (shown["role"] == "oracle").any():
        text.append("The idealised oracle is given the responses of the test perturbations themselves as embedding.")
    return text


def run_probes(evidence: Evidence) -> dict[str, Mapping[str, Any]]:
    """Return the probes that were run, with their grids, as their trials were recorded."""
    trials = evidence.trials
    several = trials["modality"].astype(str).str.lower() == FUSION
    names = set(trials.loc[(trials["role"] != "baseline") & ~several, "probe"])
    found: dict[str, Mapping[str, Any]] = {}
    for run in evidence.runs:
        for trial in run.get("trials", ()):
            probe = trial.get("depends", {}).get("probe", {})
            if probe.get("name") in names:
                found[probe["name"]] = probe
    return {name: found.get(name, {"name": name}) for name in sorted(names)}


def _probes(evidence: Evidence) -> list[str]:
    from panmodal.probes.base import probes

    known = probes()
    told = []
    for name, probe in run_probes(evidence).items():
        described = f"{name} ({known[name].description}" if name in known else f"{name} ("
        grid = probe.get("grid")
        described += f"; {probe['parameter']} from {', '.join(f'{v:g}' for v in grid)}" if grid else ""
        told.append(f"{described})" if not described.endswith("(") else name)
    if not told:
        return []
    return [
        f"A probe is fitted from embedding to response on the training perturbations of a fold: {'; '.join(told)}.",
        "Its hyper-parameter is the one of smallest mean error in an inner cross-validation over training perturbations; "
        "standardisation and projection are fitted on training perturbations only. Test perturbations that an embedding does not "
        "cover are given the training mean, or for labels the shares of the classes in training (filled); scores over the "
        "perturbations that all embeddings cover (common) stand beside.",
    ]


def _fusions(evidence: Evidence) -> list[str]:
    """Say which embeddings were fused, and how."""
    from panmodal.fusion.base import fusions

    told: dict[str, None] = {}
    for run in evidence.runs:
        for one in run.get("fusions") or ():
            if one["role"] == "embedding":
                method = str(one["method"])
                known = fusions().get(method.split(" x")[0])
                about = f" ({known.description})" if known else ""
                given = {
                    k: v
                    for k, v in (one.get("options") or {}).items()
                    if known and v != known.settings().model_dump(mode="json").get(k)
                }
                options = f", with {', '.join(f'{k} {v}' for k, v in given.items())}" if given else ""
                told[f"{one['name']}: {method}{about} of {_words(one['of'])}{options}"] = None
    if not told:
        return []
    return [
        f"Fusions of several embeddings were fitted on the same training perturbations: {'; '.join(told)}.",
        "A perturbation is covered where one of the fused embeddings has a vector for it; embeddings that lack it are left out of its "
        "prediction. Gains are told against the single embedding, with its probe, that is best on the same results.",
    ]


def _metrics(evidence: Evidence, board: pd.DataFrame) -> list[str]:
    used = list(dict.fromkeys(board["metric"]))
    text = [f"Tasks are ranked by {_words(used)}."]
    text += [f"{name}: {METRICS[name].formula}" for name in used]
    others = [m for m in METRICS if m in set(evidence.scores["metric"]) and m not in used]
    if others:
        text.append(f"Also computed: {_words(others)}.")
    return text


def _intervals(evidence: Evidence, board: pd.DataFrame) -> list[str]:
    text = []
    if board["gap_closed"].notna().any():
        names = sorted(
            {
                ceiling_name(f"{ORACLE}, " if str(c).startswith(f"{ORACLE}, ") else str(c))
                for c in board["ceiling_by"]
                if c
            }
        )
        text.append(
            f"Gap closed is (floor - score) / (floor - ceiling), never clipped; the ceiling is {_words(names)}."
        )
    for name in dict.fromkeys(evidence.ceilings["estimator"]) if evidence.ceilings is not None else ():
        if name in ESTIMATORS:
            text.append(f"Ceiling {name}: {ESTIMATORS[name].description}.")
    if board["gap_low"].notna().any():
        text.append(f"Its 95 % interval is the percentile bootstrap over test perturbations, resampled within folds, {DRAWS} draws, "
                    "the same for floor, score and ceiling.")  # fmt: skip
    versions = sorted({str(run["version"]) for run in evidence.runs if "version" in run})
    if versions:
        text.append(f"Computed with panmodal {_words(versions)}.")
    return text


def citations(evidence: Evidence, board: pd.DataFrame) -> list[Citation]:
    """List what these results rest on: the benchmark, data sets, embeddings, probes, metrics and statistics; each once."""
    found = [Citation(*PAPER, "the design of the benchmark")]
    for run in evidence.runs:
        for name in run.get("screen", {}).get("datasets") or ():
            found += _data_set(str(name))
    for run in evidence.runs:
        for entry in run.get("embeddings", ()):
            card = entry["card"]
            if entry["role"] == "embedding" and card.get("citation"):
                found.append(Citation(str(card["citation"]), _address(card.get("url")), f"embedding {card['name']}"))
    used = [*(f"probe {p}" for p in run_probes(evidence)), *(f"metric {m}" for m in dict.fromkeys(board["metric"]))]
    used += ["intervals: the bootstrap"] if board["gap_low"].notna().any() else []
    for thing in used:
        source = SOURCES.get(thing.split()[-1])
        if source:
            found.append(Citation(source[0], f"https://doi.org/{source[1]}", thing))
    merged: dict[str, Citation] = {}
    for one in found:
        before = merged.get(one.text)
        reasons = list(dict.fromkeys([*(before.used_for.split("; ") if before else ()), one.used_for]))
        merged[one.text] = Citation(one.text, one.url or (before.url if before else ""), "; ".join(reasons))
    return list(merged.values())


def _address(text: Any) -> str:
    """Return a link if it is one that a browser should follow."""
    return str(text) if str(text).startswith(("https://", "http://")) else ""


def _data_set(name: str) -> list[Citation]:
    """Find the citation of a study, or of a published collection by its name; its title where none is known."""
    from panmodal.datasets.registry import datasets
    from panmodal.studies import STUDIES

    try:
        records = list(datasets().values())
    except PanmodalError:  # a record of the user's own is damaged; it is named where data sets are used
        records = []
    exact = [r for r in records if r.name == name or r.contains == (name,)]
    within = [r for r in records if name in r.contains and r.kind in ("screen", "cells")]
    for record in (exact or within)[:1]:
        url = f"https://doi.org/{record.doi}" if record.doi else record.url
        told = f"data set {name}" + ("" if record.name == name else f", as in {record.name}")
        return [Citation(record.citation, url, told)]
    return [Citation(STUDIES[name].title, "", f"data set {name}")] if name in STUDIES else []


def provenance(evidence: Evidence) -> dict[str, pd.DataFrame]:
    """Tell what went in and by what versions: tables of screens, splits, embeddings, runs and software."""
    screens, splits, embeddings, runs = [], {}, {}, []
    for run in evidence.runs:
        screen = run.get("screen", {})
        digests = screen.get("digests") or {}
        screens += [{"screen": screen.get("name"), "context": c, "response": screen.get("response"), "data sets": ", ".join(
            screen.get("datasets") or ()), "digest": d} for c, d in digests.items()]  # fmt: skip
        if "split" in run:
            split = run["split"]
            seed = "given folds" if split.get("seed") is None else split["seed"]
            splits[split["digest"]] = {
                "split": split["name"],
                "unseen": split["unseen"],
                "seed": seed,
                "digest": split["digest"],
            }
        for entry in run.get("embeddings", ()):
            if entry["role"] == "embedding":
                embeddings[entry["card"]["name"], entry["digest"]] = _embedding(entry)
        runs.append({"screen": screen.get("name"), "trials": len(run.get("trials", ())), "panmodal": run.get("version"),
                     "recorded": run.get("recorded", "not known")})  # fmt: skip
    software = [
        {"package": "panmodal", "version": __version__},
        {"package": "python", "version": platform.python_version()},
    ]
    for package in PACKAGES:
        try:
            software.append({"package": package, "version": importlib.metadata.version(package)})
        except importlib.metadata.PackageNotFoundError:
            continue
    tables = {
        "screens": pd.DataFrame(screens).drop_duplicates(ignore_index=True) if screens else pd.DataFrame(),
        "splits": pd.DataFrame(list(splits.values())),
        "embeddings": pd.DataFrame(list(embeddings.values())),
        "runs": pd.DataFrame(runs),
        "software": pd.DataFrame(software),
    }
    return {name: table for name, table in tables.items() if not table.empty}


def _embedding(entry: Mapping[str, Any]) -> dict[str, Any]:
    card, recipe = entry["card"], entry["card"].get("recipe")
    made = (
        f"panmodal embed {recipe['builder']}, rule {recipe['rule']}"
        if isinstance(recipe, Mapping)
        else short_path(recipe or "")
    )
    return {
        "embedding": card["name"], "modality": card.get("modality"), "dims": card.get("dims"), "ids": card.get("id_namespace"),
        "covers": f"{entry['covered']}/{entry['asked']}" if "covered" in entry else "", "licence": card.get("licence") or "not said",
        "trained on": ", ".join(card.get("trained_on") or ()) or "not said", "source": short_path(card.get("source") or ""),
        "made by": made, "description": card.get("description"), "digest": entry["digest"],
    }  # fmt: skip


def configs(evidence: Evidence) -> list[str]:
    """Return the configs of the runs as YAML, each once, with files named without their folders."""
    found = [yaml.safe_dump(_without_folders(run["config"]), sort_keys=False, allow_unicode=True) for run in evidence.runs
             if run.get("config")]  # fmt: skip
    return list(dict.fromkeys(found))


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_folders(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(v) for v in value]
    return short_path(value) if isinstance(value, str) else value
