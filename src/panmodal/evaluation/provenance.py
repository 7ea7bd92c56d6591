"""Where results come from: environment, command, machine, time and memory, so that years later it is known what was run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from panmodal._digest import digest_json
from panmodal._version import __version__

EXTRAS = ("torch", "rdkit", "torch-geometric", "transformers", "sentence-transformers", "distributed", "dask")
"""Packages that may matter beside the dependencies of panmodal."""


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@cache
def environment() -> dict[str, Any]:
    """Describe this process's Python, packages, BLAS, machine and, where panmodal runs from a checkout, its git state.

    Returns
    -------
    dict
        ``panmodal, python, packages`` (name -> version), ``blas`` (library -> what it was built with), ``system``, ``machine``,
        ``cpu``, ``cores``, ``memory_gb`` and ``git`` (``commit``, ``dirty``) or None. No path and no name of a user or machine.
    """
    return {
        "panmodal": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": _packages(),
        "blas": _blas(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": _memory(),
        "git": git_state(Path(__file__).parent),
    }


@cache
def environment_digest() -> str:
    """Return the digest of :func:`environment`."""
    return digest_json(environment())


def _packages() -> dict[str, str]:
    try:
        wanted = [re.split(r"[\s;<>=!~\[(]", r, maxsplit=1)[0] for r in importlib.metadata.requires("panmodal") or ()
                  if "extra ==" not in r]  # fmt: skip
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    found = {}
    for name in sorted({*wanted, *EXTRAS}):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _blas() -> dict[str, str]:
    """Return the BLAS that NumPy and SciPy were built with; what is loaded now may differ from worker to worker."""
    import numpy as np
    import scipy

    found = {}
    for library in (np, scipy):
        with contextlib.suppress(Exception):  # older versions describe themselves otherwise
            own = library.show_config(mode="dicts")["Build Dependencies"]["blas"]
            found[library.__name__] = f"{own['name']} {own['version']}"
    return found


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _memory() -> float | None:
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the checkout that a folder lies in, and whether files differ from it; None where there is no git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--", ".")
        if not tracked:
            return None  # installed into somebody's checkout, not a part of it
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


class Meter:
    """Wall time, CPU time and peak memory of this process from now on."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, Any]:
        """Return ``seconds`` (wall), ``cpu_seconds``, ``peak_memory_mb`` (of the process so far), ``finished`` and ``environment``."""
        return {
            "seconds": round(time.perf_counter() - self.wall, 6),
            "cpu_seconds": round(time.process_time() - self.cpu, 6),
            "peak_memory_mb": peak_memory(),
            "finished": now(),
            "environment": environment_digest(),
        }


def reset_peak() -> None:
    """Let the peak memory of this process begin anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> float | None:
    """Return the peak resident memory of this process in MiB, since :func:`reset_peak` where the system can."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    try:
        import resource
    except ImportError:
        return None
    # In bytes on macOS, in KiB elsewhere.
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)


def differences(then: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield what differs between two environments, one line each."""
    for key in sorted({*then, *here}):
        a, b = then.get(key), here.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{prefix}{key} ")
        elif a != b:
            yield f"{prefix}{key}: {'absent' if a is None else a} then, {'absent' if b is None else b} here"
