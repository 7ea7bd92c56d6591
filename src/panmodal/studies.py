"""Names of studies, so that an embedding trained on one and a screen from it are known to belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

NONE = "none"
"""In ``trained_on``: the author says that no perturbation screen was seen."""


@dataclass(frozen=True)
class Study:
    """A published set of measurements.

    ``contains`` names the studies that a collection is made of; ``aliases`` are other names for the same.
    """

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()


STUDIES = {
    study.name: study
    for study in (
        Study("replogle2022", "CRISPRi of essential genes and genome-wide, K-562 and hTERT-RPE1 (Replogle 2022)",
              ("replogle", "replogle2022essential", "replogle2022gwps", "k562essential", "rpe1essential", "k562gwps")),
        Study("nadig2024", "CRISPRi of essential genes, Hep-G2 and Jurkat (Nadig 2025)", ("nadig", "nadig2025")),
        Study("essential", "Essential screens of the published benchmark", ("essentialscreens",), ("replogle2022", "nadig2024")),
        Study("norman2019", "CRISPRa of single genes and pairs, K-562 (Norman 2019)", ("norman", "normanweissman2019")),
        Study("adamson2016", "CRISPRi of the unfolded protein response, K-562 (Adamson 2016)", ("adamson",)),
        Study("dixit2016", "Perturb-seq, BMDC and K-562 (Dixit 2016)", ("dixit",)),
        Study("papalexi2021", "ECCITE-seq of THP-1 (Papalexi 2021)", ("papalexi",)),
        Study("frangieh2021", "Perturb-CITE-seq of melanoma (Frangieh 2021)", ("frangieh",)),
        Study("sciplex3", "188 compounds on A549, K562, MCF7 (Srivatsan 2020)", ("sciplex", "srivatsan2020", "srivatsantrapnell2020")),
        Study("tahoe100m", "379 compounds on 50 cell lines (Tahoe-100M, 2025)", ("tahoe",)),
        Study("op3", "146 compounds on PBMC (NeurIPS 2023 Open Problems)", ("neurips2023op3", "openproblems2023", "gse279945")),
        Study("lincs-l1000", "Connectivity Map L1000 (Subramanian 2017)", ("lincs", "l1000", "cmap")),
        Study("depmap", "CRISPR knockout fitness of cancer cell lines (DepMap)", ("depmapcrispr", "achilles")),
    )
}  # fmt: skip
"""The studies that panmodal knows by name; any other name stands for itself."""


def key(name: str) -> str:
    """Return the form in which names of studies are compared: lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_KEY = {key(n): study for study in STUDIES.values() for n in (study.name, *study.aliases)}


def expand(names: Iterable[str]) -> set[str]:
    """Return the studies that the names stand for: aliases resolved, collections opened."""
    found: set[str] = set()
    for name in names:
        study = _BY_KEY.get(key(name))
        if study is None:
            found.add(key(name))
        elif study.contains:
            found |= expand(study.contains)
        else:
            found.add(study.name)
    return found - {NONE}


def seen(trained_on: Iterable[str], datasets: Iterable[str]) -> str:
    """Tell whether an embedding has seen a screen: ``yes``, ``no``, or ``unknown`` where one of the two does not say.

    Parameters
    ----------
    trained_on
        What the card declares; empty means that it says nothing, :data:`NONE` that no screen was seen.
    datasets
        The studies that the screen is from; empty if it does not say.
    """
    trained_on, datasets = list(trained_on), list(datasets)
    if not trained_on or (not datasets and expand(trained_on)):
        return "unknown"
    return "yes" if expand(trained_on) & expand(datasets) else "no"
