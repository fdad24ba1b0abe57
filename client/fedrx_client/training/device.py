"""The processor that a site trains on, and the handling of its failures.

Whatever the device, weights come in and sums go out as arrays on the CPU; on the CPU itself
not a bit differs from a site without a choice of devices.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedrx_common.errors import MisuseError

CPU = torch.device("cpu")
CHOICES = ("auto", "cuda", "mps", "cpu")
_FAILURES: tuple[type[BaseException], ...] = tuple(
    kind
    for kind in (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", None), MemoryError)
    if kind is not None
)


class DeviceFailed(MisuseError):
    """The device ran out of memory or broke down; nothing was charged and nothing left."""


def devices() -> tuple[torch.device, ...]:
    """List the devices of this machine, the fastest first."""
    found = []
    if torch.cuda.is_available():
        found.append(torch.device("cuda"))
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return (*found, CPU)


def pick_device(name: str = "auto") -> torch.device:
    """Return the device that a site's settings name; 'auto' is the fastest there is.

    Raises:
        MisuseError: there is no such device here.
    """
    here = devices()
    if name == "auto":
        return here[0]
    for device in here:
        if device.type == name:
            return device
    raise MisuseError(
        f"device '{name}' is not here; this machine has {', '.join(d.type for d in here)}."
    )


@contextmanager
def named_failures(device: torch.device) -> Iterator[None]:
    """Turn a failure of the device into `DeviceFailed`, and free the device's memory.

    Raises:
        DeviceFailed: it failed.
    """
    try:
        yield
    except _FAILURES as error:
        if device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
        raise DeviceFailed(
            f"device '{device.type}' failed ({type(error).__name__}): free its memory, or start "
            "the site with --device cpu."
        ) from None
