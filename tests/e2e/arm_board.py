"""A Raspberry Pi for tests: an sshd whose login is the ARM root file system, run by QEMU.

Namespaces of Linux hide all of it from the rest of the machine: the mounts, the registration of
QEMU for ARM programs, the host name and the user pi. Needs root, and Linux 6.7.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from edgekit.targets.arm_root import root_folder
from edgekit.targets.qemu_profiles import PROFILES
from tests.e2e.sshd import PROGRAM, Sshd

QEMU = shutil.which("qemu-aarch64-static")
INSTALL = "run as root on Linux 6.7 or later, after: apt install qemu-user-static"
_MAGIC = (
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
)
_SETUP = r"""
read go
hostname raspberrypi
mount -t tmpfs t /run
mkdir -p /run/sshd /run/pi /run/layers/upper /run/layers/work
cp "$BOARD"/{hostkey,authorized_keys,sshd_config,passwd,group,cpuinfo} /run/pi/
chmod 600 /run/pi/hostkey
for name in passwd group; do mount --bind /run/pi/$name /etc/$name; done
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf '%s' ":qemu-aarch64:M::$MAGIC:$QEMU:OCF" > /proc/sys/fs/binfmt_misc/register
layers="lowerdir=$ROOT/debian,upperdir=/run/layers/upper,workdir=/run/layers/work"
mount -t overlay board -o "$layers" /srv
mkdir -p /srv/{dev,proc,sys,tmp,home/pi}
chmod 1777 /srv/tmp
chown 1000:1000 /srv/home/pi
cp /run/pi/{passwd,group} /srv/etc/
mount --bind "$ROOT/site" /srv/usr/lib/python3/dist-packages
mount -t proc proc /srv/proc
mount --bind /run/pi/cpuinfo /srv/proc/cpuinfo
for name in dev sys; do mount --rbind /$name /srv/$name; done
cd /
exec "$SSHD" -D -e -f /run/pi/sshd_config
"""


def can_run() -> bool:
    version = tuple(int(part) for part in platform.release().split(".")[:2])
    return QEMU is not None and os.getuid() == 0 and version >= (6, 7)


class ArmBoard(Sshd):
    """An Sshd at which user pi finds a Raspberry Pi 4 with the runtimes."""

    user = "pi"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, python=None)

    def _settings(self, board: Mapping[str, str]) -> str:
        return f"""
            Port {self.port}
            ListenAddress 127.0.0.1
            HostKey /run/pi/hostkey
            AuthorizedKeysFile /run/pi/authorized_keys
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            UsePAM no
            StrictModes no
            PidFile none
            PrintMotd no
            ChrootDirectory /srv
            AllowUsers pi
            SetEnv QEMU_CPU={PROFILES["pi4"].cpu}
        """

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        (self.folder / "passwd").write_text(
            "root:x:0:0::/root:/usr/sbin/nologin\n"
            "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
            "pi:*:1000:1000::/home/pi:/bin/dash\n"
        )
        (self.folder / "group").write_text("root:x:0:\npi:x:1000:\nnogroup:x:65534:\n")
        (self.folder / "cpuinfo").write_text(PROFILES["pi4"].files()["proc/cpuinfo"])
        process = subprocess.Popen(
            [
                *("unshare", "--user", "--mount", "--uts", "--pid", "--fork"),
                *("bash", "-ec", _SETUP),
            ],
            env={
                "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
                "BOARD": str(self.folder),
                "ROOT": str(root_folder()),
                "QEMU": str(QEMU),
                "SSHD": str(PROGRAM),
                "MAGIC": _MAGIC,
            },
            stdin=subprocess.PIPE,
            stderr=log,
        )
        _wait_for_namespace(process.pid)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{kind}").write_text("0 0 65536")
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        return process

    def __exit__(self, *_: object) -> None:
        # The first process of the namespace takes all others along.
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        self._process.wait(timeout=10)


def _wait_for_namespace(pid: int) -> None:
    own = os.readlink("/proc/self/ns/user")
    for _ in range(200):
        if os.readlink(f"/proc/{pid}/ns/user") != own:
            return
        time.sleep(0.01)
    raise AssertionError("unshare made no namespace")
