"""Named data sets: one small file each, downloaded once, checked ever after."""

from panmodal.datasets.fetch import FetchError, cached_file, cached_paths, fetch, verify
from panmodal.datasets.load import load_embedding, load_screen, split_file
from panmodal.datasets.record import DataFile, Dataset
from panmodal.datasets.registry import dataset, datasets

__all__ = [
    "DataFile", "Dataset", "FetchError", "cached_file", "cached_paths", "dataset", "datasets", "fetch", "load_embedding",
    "load_screen", "split_file", "verify",
]  # fmt: skip
