"""Opening AnnData files with an error that a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panmodal._tables import suffix
from panmodal.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


def read_anndata(path: Path) -> AnnData:
    """Read an h5ad or zarr file; a truncated or foreign file is an :class:`InputError`."""
    import anndata

    try:
        return anndata.read_zarr(path) if suffix(path) == ".zarr" else anndata.read_h5ad(path)
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read as {suffix(path)[1:]} ({reason}). Is it complete?") from error
