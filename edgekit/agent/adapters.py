"""Which GPUs are here, asked of their drivers: Vulkan's, on which WebGPU stands, and CUDA's.

`python -m edgekit.agent.adapters` prints that as JSON in its last line. A driver can crash the
process that loads it, so a host asks in another one.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

SOFTWARE = "software, parity only"
"""Marks an adapter that computes on the CPU: right numbers, at a speed that says nothing."""

_SOFTWARE_NAME = re.compile(r"swiftshader|llvmpipe|lavapipe|softpipe|software|\bwarp\b", re.I)
_CPU_TYPE = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
_RANK = (0, 2, 3, 1)  # by VkPhysicalDeviceType: other, integrated, discrete, virtual


class NoDriver(RuntimeError):
    """An API that is not here, or finds nothing: why, in words."""


@dataclass(frozen=True)
class Adapter:
    """A GPU, or a program that plays one."""

    name: str
    is_software: bool = False
    rank: int = 3
    """Larger is faster: WebGPU takes the fastest."""


@dataclass(frozen=True)
class Adapters:
    """Those of each API, and why one has none."""

    vulkan: tuple[Adapter, ...] = ()
    cuda: tuple[Adapter, ...] = ()
    no_vulkan: str | None = None
    no_cuda: str | None = None


def find() -> Adapters:
    """All that drivers tell of, asked in this process."""
    (vulkan, no_vulkan), (cuda, no_cuda) = _asked(vulkan_adapters), _asked(cuda_adapters)
    return Adapters(vulkan, cuda, no_vulkan, no_cuda)


def named(name: str, *, on_cpu: bool, rank: int = 3) -> Adapter:
    """An adapter as its driver describes it; some software does not say that it is."""
    if on_cpu or _SOFTWARE_NAME.search(name):
        return Adapter(name, is_software=True, rank=-1)
    return Adapter(name, rank=rank)


def fastest(adapters: Sequence[Adapter]) -> str | None:
    """The name of the adapter that is taken; of several as fast ones it is not told which."""
    return " or ".join(dict.fromkeys(a.name for a in _fastest(adapters))) or None


def label(backend: str, adapters: Sequence[Adapter]) -> str:
    """A back end with the `fastest` of `adapters`."""
    words = fastest(adapters) or "adapter not told"
    marked = f"{words}; {SOFTWARE}" if any(a.is_software for a in _fastest(adapters)) else words
    return f"{backend} ({marked})"


def _fastest(adapters: Sequence[Adapter]) -> list[Adapter]:
    return [a for a in adapters if a.rank == max(b.rank for b in adapters)]


def vulkan_adapters() -> tuple[Adapter, ...]:
    """Vulkan's physical devices.

    Raises:
        NoDriver: Vulkan is not installed, or has no driver.
    """
    vulkan = _library("libvulkan.so.1", "vulkan-1.dll")
    if vulkan is None:
        raise NoDriver("Vulkan's loader (libvulkan) is not installed")
    instance = ctypes.c_void_p()
    info = _InstanceInfo(type=1)  # VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO
    if vulkan.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance)) != 0:
        raise NoDriver("Vulkan found no driver")
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    devices = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    found = tuple(_described(vulkan, device) for device in devices[: count.value])
    vulkan.vkDestroyInstance(instance, None)
    if not found:
        raise NoDriver("Vulkan's drivers found no device")
    return found


def cuda_adapters() -> tuple[Adapter, ...]:
    """CUDA's devices, in its order, which is fastest first.

    Raises:
        NoDriver: NVIDIA's driver is not installed, or finds no device.
    """
    cuda = _library("libcuda.so.1", "nvcuda.dll")
    if cuda is None:
        raise NoDriver("NVIDIA's driver (libcuda) is not installed")
    count = ctypes.c_int()
    failed = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if failed or not count.value:
        raise NoDriver(f"NVIDIA's driver found no device (CUDA error {failed})")
    found = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        cuda.cuDeviceGet(ctypes.byref(device), ordinal)
        cuda.cuDeviceGetName(name, len(name), device)
        found.append(Adapter(name.value.decode(errors="replace"), rank=-ordinal))
    return tuple(found)


class _InstanceInfo(ctypes.Structure):
    """VkInstanceCreateInfo."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


class _Properties(ctypes.Structure):
    """VkPhysicalDeviceProperties; of its end only that it has room."""

    _fields_ = (
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("type", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_uint8 * 4096),
    )


def _described(vulkan: ctypes.CDLL, device: int | None) -> Adapter:
    properties = _Properties()
    vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(device), ctypes.byref(properties))
    kind = properties.type
    name = properties.name.decode(errors="replace")
    return named(name, on_cpu=kind == _CPU_TYPE, rank=_RANK[kind] if kind < len(_RANK) else 0)


def _library(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _asked(ask: Callable[[], tuple[Adapter, ...]]) -> tuple[tuple[Adapter, ...], str | None]:
    try:
        return ask(), None
    except NoDriver as e:
        return (), str(e)


if __name__ == "__main__":
    print("\n" + json.dumps(asdict(find())))  # in a line of its own: drivers print, too
