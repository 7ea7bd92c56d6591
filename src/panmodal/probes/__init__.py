"""Probes: the small models that turn an embedding into a predicted response. They know arrays only."""

from panmodal.probes.base import Probe, Selection, get_probe, probes, select
from panmodal.probes.design import Design, Fold, LabelTargets, Targets
from panmodal.probes.probe_cv import ProbeCV

__all__ = [
    "Design",
    "Fold",
    "LabelTargets",
    "Probe",
    "ProbeCV",
    "Selection",
    "Targets",
    "get_probe",
    "probes",
    "select",
]
