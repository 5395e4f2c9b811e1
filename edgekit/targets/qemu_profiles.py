"""The ARM machines that QEMU plays: what the processor can do, and what /proc/cpuinfo says of it.

The two belong together: runtimes choose their kernels by /proc/cpuinfo, and one that the processor
cannot run ends with SIGILL.
"""

from __future__ import annotations

from dataclasses import dataclass

CORES = 4
_ARMV8_2 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)


@dataclass(frozen=True)
class Profile:
    """`cpu` is QEMU's -cpu; `features` to `revision` are fields of /proc/cpuinfo.

    `core` is what LLVM calls the processor whose cycles it models, `clock_hz` the board's clock;
    None for a machine that stands for many.
    """

    name: str
    title: str
    cpu: str
    features: str
    variant: str
    part: str
    revision: int
    core: str | None = None
    clock_hz: int = 0

    def files(self) -> dict[str, str]:
        """What Linux on such a machine tells of its processors, by path."""
        cpus = "sys/devices/system/cpu"
        numbers = {
            f"{cpus}/{name}": f"0-{CORES - 1}\n" for name in ("online", "possible", "present")
        }
        return {"proc/cpuinfo": self._cpuinfo(), **numbers}

    def _cpuinfo(self) -> str:
        return "".join(
            f"processor\t: {core}\n"
            "BogoMIPS\t: 108.00\n"
            f"Features\t: {self.features}\n"
            "CPU implementer\t: 0x41\n"
            "CPU architecture: 8\n"
            f"CPU variant\t: {self.variant}\n"
            f"CPU part\t: {self.part}\n"
            f"CPU revision\t: {self.revision}\n\n"
            for core in range(CORES)
        )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "pi4",
            "Cortex-A72, as in a Raspberry Pi 4",
            "cortex-a72",
            "fp asimd evtstrm crc32 cpuid",
            "0x0",
            "0xd08",
            3,
            "cortex-a72",
            1_800_000_000,
        ),
        Profile(
            "pi5",
            "Cortex-A76, as in a Raspberry Pi 5",
            "cortex-a76",
            _ARMV8_2,
            "0x4",
            "0xd0b",
            1,
            "neoverse-n1",  # the same core, for servers; LLVM takes a Cortex-A76 for an A57
            2_400_000_000,
        ),
        # Kernels choose i8mm by the processor itself. Not SME: QEMU 7.2 gives wrong int8 with it.
        Profile(
            "phone",
            "an ARM core with i8mm, as in phones",
            "max,sme=off",
            _ARMV8_2,
            "0x4",
            "0xd0b",
            1,
        ),
    )
}
