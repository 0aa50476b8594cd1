"""GPUs by name: memory, and the most that they compute a second. Imports nothing heavy, so that a plan may read it.

Peaks are of dense products as the vendor's data sheets state them, tensor cores on and sparsity off; bf16 and fp16 with float32 sums. TF32 is not used for fp32 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 1 << 30
TERA = 1e12


@dataclass(frozen=True)
class Device:
    """A kind of GPU."""

    memory_bytes: int
    """Of its own."""
    peak: Mapping[str, float]
    """Format -> floating-point operations a second."""
    marks: tuple[str, ...]
    """Words that its name in the driver holds, all of them."""


DEVICES: dict[str, Device] = {
    "b200": Device(180 * GIB, {"bf16": 2250 * TERA, "fp16": 2250 * TERA, "fp32": 80 * TERA}, ("B200",)),
    "h200": Device(141 * GIB, {"bf16": 989 * TERA, "fp16": 989 * TERA, "fp32": 67 * TERA}, ("H200",)),
    "h100-pcie": Device(80 * GIB, {"bf16": 756 * TERA, "fp16": 756 * TERA, "fp32": 51 * TERA}, ("H100", "PCIe")),
    "h100": Device(80 * GIB, {"bf16": 989 * TERA, "fp16": 989 * TERA, "fp32": 67 * TERA}, ("H100",)),
    "a100-80gb": Device(80 * GIB, {"bf16": 312 * TERA, "fp16": 312 * TERA, "fp32": 19.5 * TERA}, ("A100", "80GB")),
    "a100-40gb": Device(40 * GIB, {"bf16": 312 * TERA, "fp16": 312 * TERA, "fp32": 19.5 * TERA}, ("A100",)),
    "l40s": Device(48 * GIB, {"bf16": 362 * TERA, "fp16": 362 * TERA, "fp32": 91.6 * TERA}, ("L40S",)),
    "a10g": Device(24 * GIB, {"bf16": 70 * TERA, "fp16": 70 * TERA, "fp32": 31.2 * TERA}, ("A10G",)),
    "l4": Device(24 * GIB, {"bf16": 121 * TERA, "fp16": 121 * TERA, "fp32": 30.3 * TERA}, ("L4",)),
    "v100-32gb": Device(32 * GIB, {"fp16": 125 * TERA, "fp32": 15.7 * TERA}, ("V100", "32GB")),
    "v100-16gb": Device(16 * GIB, {"fp16": 125 * TERA, "fp32": 15.7 * TERA}, ("V100",)),
}
"""The more special names first."""


def device_of(name: str) -> Device | None:
    """The kind of a GPU by its driver's name ("NVIDIA H100 80GB HBM3"), or None."""
    words = name.replace("-", " ").split()
    return next((device for device in DEVICES.values() if set(device.marks) <= set(words)), None)
