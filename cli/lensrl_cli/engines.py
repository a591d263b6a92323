"""From the options of `lensrl run` to the engine that makes the runs: processes on this machine, or a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensrl.errors import LensrlError

if TYPE_CHECKING:
    from lensrl.train.engine import Engine


def gpus_of(devices: str | None) -> list[str] | None:
    """Return the GPUs that --devices names, each once; None where it is not given. Raises LensrlError."""
    if devices is None:
        return None
    names = [name.strip() for name in devices.split(",") if name.strip()]
    if not names:
        raise LensrlError("--devices names no GPU; write --devices 0,1")
    for name in names:
        if (count := names.count(name)) > 1:
            once = ",".join(dict.fromkeys(names))
            raise LensrlError(
                f"--devices names GPU {name} {count} times; for {count} workers on each GPU write --devices {once} "
                f"--per-device {count}"
            )
    return names


def engine_here(workers: int | None, devices: list[str] | None, per_device: int | None) -> Engine | None:
    """Return the engine that the options name; None for this process alone."""
    if workers is None and devices is None and per_device is None:
        return None
    from lensrl.train.workers import Workers

    if workers is not None and per_device is not None:
        raise LensrlError("--workers and --per-device both say how many: leave one of them out")
    if workers is not None:
        return Workers(workers, devices or [])
    if devices is None:  # how many workers there are is asked of torch
        from lensrl.models.base import visible_devices

        devices = visible_devices()
    if not devices:
        raise LensrlError("--per-device needs --devices 0,1,2,3: this machine shows no GPU")
    return Workers(len(devices) * (per_device or 1), devices)


def engine_on_ray(address: str | None, workers: int | None, devices: str | None, per_device: int | None) -> Engine:
    """Return the engine on a Ray cluster, which gives out devices itself."""
    from lensrl.train.on_ray import OnRay

    if devices is not None or per_device is not None:
        raise LensrlError(
            f"{'--devices' if devices is not None else '--per-device'} is for processes on this machine: Ray gives the "
            f"GPUs out, and --num-gpus 0.5 puts two workers on one"
        )
    return OnRay(address, workers)
