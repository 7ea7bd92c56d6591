"""Torch as a fit wants it, and as it was before once the fit is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from panmodal.errors import InputError
from panmodal.fusion.base import Setting


def device_of(setting: Setting) -> torch.device:
    """Return the device of a setting.

    Raises
    ------
    InputError
        Torch does not know it, or it is not there.
    """
    try:
        device = torch.device(setting.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"device {setting.device!r} cannot be used by torch ({first}); use 'cpu'.") from None
    return device


@contextmanager
def own_torch(setting: Setting) -> Iterator[torch.device]:
    """Make torch deterministic and single-minded: threads, types, precision, gradients and random state are ours inside.

    Everything is put back afterwards, also after an error. On a CUDA device an operation without a deterministic form only warns.
    """
    device = device_of(setting)
    threads = torch.get_num_threads()
    dtype = torch.get_default_dtype()
    strict, lax = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    forked = [device] if device.type == "cuda" else []
    try:
        torch.set_num_threads(max(1, setting.threads))
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
        with (torch.random.fork_rng(devices=forked), torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"),
              torch.autocast(device.type, enabled=False)):  # fmt: skip
            yield device
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(strict, warn_only=lax)
