"""A real sshd on 127.0.0.1 with keys, settings and an environment of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

INSTALL = "apt install openssh-server openssh-client"
PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
LOADED = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
"""A python3 with the runtimes: that of the tests."""
BARE = "bare"
"""Stands for a python3 without any package."""


class Sshd:
    """The server, and in `client` an `ssh` that knows it and has the key; see `on_path`."""

    user = getpass.getuser()

    def __init__(
        self, folder: Path, *, python: str | None = LOADED, environment: Mapping[str, str] = {}
    ) -> None:
        assert PROGRAM is not None
        self.folder = folder
        self.bin = folder / "bin"
        self.cache = folder / "cache"
        self.client = folder / "client"
        home = folder / "home"  # not the user's own, with what its shell reads
        home.mkdir(parents=True)
        self.bin.mkdir()
        self.client.mkdir()
        if python == BARE:
            bare = [sys.executable, "-m", "venv", "--without-pip", str(folder / "bare")]
            subprocess.run(bare, check=True)
            python = f'#!/bin/sh\nexec {folder}/bare/bin/python "$@"\n'
        if python is not None:
            self.install("python3", python)
        self.port = _free_port()
        self.uri = f"ssh://{self.user}@127.0.0.1:{self.port}"
        for name in ("hostkey", "key"):
            _make_key(folder / name)
        shutil.copyfile(folder / "key.pub", folder / "authorized_keys")
        path = f"{self.bin}:/usr/bin:/bin" if python is not None else str(self.bin)
        board = {
            "HOME": str(home),
            "PATH": path,
            "XDG_CACHE_HOME": str(self.cache),
            **environment,
        }
        (folder / "sshd_config").write_text(self._settings(board))
        self._write_client()
        self._process = self._start()

    def __enter__(self) -> Sshd:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def install(self, name: str, script: str) -> None:
        """Put a program on the board's PATH."""
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def sessions(self) -> list[int]:
        """The processes that serve one connection each."""
        pid = self._process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def trust(self, public_key: Path) -> None:
        """What the client thinks is the key of this server."""
        known = f"[127.0.0.1]:{self.port} {public_key.read_text()}"
        (self.folder / "known_hosts").write_text(known)

    def _settings(self, board: Mapping[str, str]) -> str:
        return f"""
            Port {self.port}
            ListenAddress 127.0.0.1
            HostKey {self.folder}/hostkey
            AuthorizedKeysFile {self.folder}/authorized_keys
            PermitRootLogin prohibit-password
            PasswordAuthentication no
            KbdInteractiveAuthentication no
            UsePAM no
            StrictModes no
            PidFile none
            PrintMotd no
            SetEnv {" ".join(f'"{k}={v}"' for k, v in board.items())}
        """

    def _write_client(self) -> None:
        config = f"""
            Host *
              IdentityFile {self.folder}/key
              IdentitiesOnly yes
              UserKnownHostsFile {self.folder}/known_hosts
              GlobalKnownHostsFile /dev/null
            Host board
              HostName 127.0.0.1
              Port {self.port}
              User {self.user}
        """
        (self.folder / "ssh_config").write_text(config)
        program = self.client / "ssh"
        program.write_text(
            f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/ssh_config "$@"\n'
        )
        program.chmod(0o755)
        self.trust(self.folder / "hostkey.pub")

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd asks for it
        command = [str(PROGRAM), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("wb") as log:
            process = self._spawn(log)
        for _ in range(100):
            if process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            time.sleep(0.05)
        process.kill()
        process.wait()
        raise AssertionError(f"sshd does not start: {self.log()}")


def _make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
