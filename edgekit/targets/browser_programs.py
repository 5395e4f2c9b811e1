"""Chromium and Firefox: where they are, and how one is started with nobody watching."""

from __future__ import annotations

import contextlib
import glob
import html
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import MissingDependency, TargetError
from edgekit.processes import describe_exit

_NAMES = {
    "chromium": (
        *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
        r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    ),
    "firefox": (
        *("firefox", "firefox-esr"),
        "/Applications/Firefox.app/Contents/MacOS/firefox",
        r"C:\Program Files\Mozilla Firefox\firefox.exe",
    ),
}
INSTALL = {
    "chromium": "install Chromium or Chrome (Debian, Ubuntu: apt install chromium)",
    "firefox": "install Firefox (Debian: apt install firefox-esr)",
}

_CHROMIUM = (
    *("--headless=new", "--no-first-run", "--no-default-browser-check", "--window-size=420,900"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--disable-extensions", "--disable-default-apps", "--mute-audio"),
    *("--disable-breakpad", "--disable-crash-reporter", "--metrics-recording-only"),
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding"),
    *("--disable-backgrounding-occluded-windows", "--disable-dev-shm-usage"),
    *("--password-store=basic", "--use-mock-keychain"),
)

_FIREFOX: dict[str, bool | str] = {
    "app.normandy.enabled": False,
    "app.shield.optoutstudies.enabled": False,
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.cache.disk.enable": False,
    "browser.newtabpage.enabled": False,
    "browser.region.network.url": "",
    "browser.safebrowsing.blockedURIs.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.search.update": False,
    "browser.sessionstore.resume_from_crash": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "captivedetect.canonicalURL": "",
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.policy.firstRunURL": "",
    "dom.push.connection.enabled": False,
    "extensions.blocklist.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.systemAddon.update.enabled": False,
    "extensions.update.enabled": False,
    "geo.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disablePrefetch": True,
    "network.prefetch-next": False,
    "security.remote_settings.crlite_filters.enabled": False,
    "services.settings.server": "data:,",
    "signon.rememberSignons": False,
    "toolkit.telemetry.enabled": False,
    "toolkit.telemetry.unified": False,
}
"""A run asks nothing of the network but our page."""


_LEASH = """
exec 3<&0
folder=$1
shift
{
  trap '' TERM
  read -r _ <&3
  kill -s TERM -- -$$
  sleep 2
  rm -rf -- "$folder"
  kill -s KILL -- -$$
} &
"$@" 3<&- &
wait $!
"""
"""Starts "$@", and when stdin closes, ends its group and removes the folder before it: no browser
outlives us, nor what it wrote, however we end (a closed terminal, SIGKILL)."""

_LONGEST_TEMPORARY = 40
"""Characters of a path: with a longer TMPDIR, that of Chromium's socket in it is too long."""

_OPEN = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={url}">
"""


def find(kind: str) -> Path:
    """The program of `kind`, chromium or firefox.

    Raises:
        MissingDependency: it is not installed.
    """
    for name in _NAMES[kind]:
        if found := shutil.which(name):
            return Path(found)
    raise MissingDependency(f"{kind.title()} was not found on this machine", hint=INSTALL[kind])


class Browser:
    """A browser without a window, which shows one page until `close()`.

    Its profile, home and temporary files are in a folder of its own that only this user can open.
    In there is the address too: everybody can read command lines. A snap sees no files of others,
    and is given the address itself.
    """

    def __init__(self, kind: str, url: str, *, webgpu: bool = False) -> None:
        program = find(kind)
        self.kind = kind
        self._folder = _temporary_folder()
        folder = Path(self._folder.name)
        profile = folder / "profile"
        profile.mkdir()
        environment = dict(os.environ)
        if not _is_snap(program):
            start = folder / "open.html"
            start.write_text(_OPEN.format(url=html.escape(url)))
            url = start.as_uri()
            environment = _environment(folder)
        if kind == "firefox":
            command = _firefox(program, profile)
        else:
            command = _chromium(program, profile, webgpu)
        if os.name == "posix":
            command = ["/bin/sh", "-c", _LEASH, "sh", self._folder.name, *command]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, url],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A group of its own: a browser is many processes, which must end together.
                start_new_session=True,
                env={**environment, "MOZ_CRASHREPORTER_DISABLE": "1"},
            )

    def check(self) -> None:
        """Raise TargetError if the browser has ended."""
        code = self._process.poll()
        if code is None:
            return
        if code > 128:
            code = 128 - code  # the shell's way to name a signal
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "no output"
        raise TargetError(f"{self.kind} {describe_exit(code)}: {last}", hint=_hint(lines))

    def close(self) -> None:
        """End all its processes and remove its profile."""
        if os.name == "posix":
            _end_group(self._process)
        else:
            self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    is_long = os.name == "posix" and len(tempfile.gettempdir()) > _LONGEST_TEMPORARY
    return tempfile.TemporaryDirectory(
        prefix="edgekit-", dir="/tmp" if is_long else None, ignore_cleanup_errors=True
    )


def _environment(folder: Path) -> dict[str, str]:
    """Ours, with all places for files of a user's in `folder`."""
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir()
    temporary.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("XDG_") or k.endswith("_DIRS")}
    return {**kept, "HOME": str(home), "TMPDIR": str(temporary)}


def _is_snap(program: Path) -> bool:
    return Path("/snap/bin", program.name).exists()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        os.killpg(process.pid, signal.SIGKILL)  # whoever of the group is left


def _chromium(program: Path, profile: Path, webgpu: bool) -> list[str]:
    options = [*_CHROMIUM, f"--user-data-dir={profile}"]
    if os.name == "posix" and os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses to run as root with one
    if webgpu:
        options.append("--enable-unsafe-webgpu")
        if sys.platform == "linux":
            # SwiftShader computes on the CPU, and is named as software in what comes back.
            options.append(
                "--enable-features=Vulkan" if _has_gpu() else "--use-webgpu-adapter=swiftshader"
            )
    return [str(program), *options]


def _has_gpu() -> bool:
    return bool(glob.glob("/dev/dri/renderD*") or glob.glob("/dev/nvidia[0-9]*"))


def _firefox(program: Path, profile: Path) -> list[str]:
    lines = (f'user_pref("{name}", {_literal(value)});\n' for name, value in _FIREFOX.items())
    Path(profile, "user.js").write_text("".join(lines))
    return [str(program), "--headless", "--no-remote", "--profile", str(profile)]


def _literal(value: bool | str) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _hint(log: Sequence[str]) -> str | None:
    if any("sandbox" in line.lower() for line in log):
        return "this system does not let Chromium make its sandbox: allow user namespaces"
    return None
