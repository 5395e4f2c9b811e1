"""Python files of the user's: run as they are, with errors that name the file and the line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from edgekit.errors import EdgekitError

BUNDLED = "edgekit.recipes."
"""Before the names of modules that are recipes of edgekit's own, wherever it is installed."""


def bundled_recipes() -> Path:
    """`edgekit/recipes` of an installed wheel, or `recipes` at the top of a checkout."""
    package = Path(__file__).parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def run(source: bytes, path: Path, error: type[EdgekitError], **names: object) -> ModuleType:
    """Run exactly the bytes `source` of the file `path`; no .pyc is written beside it.

    Args:
        source: what was read, and perhaps hashed.
        path: where it came from.
        error: what to raise if the code fails.
        names: defined before the code runs.
    """
    module = ModuleType(f"edgekit_user_{path.stem}")
    module.__dict__.update(__file__=str(path), **names)
    with errors_of(path, error):
        code = compile(source, str(path), "exec", dont_inherit=True)
        sys.modules[module.__name__] = module  # dataclasses and pickle look their module up
        exec(code, module.__dict__)
    return module


def find(name: str, error: type[EdgekitError]) -> Path:
    """The file of a module: a path to a .py file, or a dotted name as Python imports it.

    Modules are also looked for in the working directory.
    """
    if name.startswith(BUNDLED):
        name = str(bundled_recipes() / f"{name.removeprefix(BUNDLED)}.py")
    path = Path(name).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise error(f"there is no file {name}")
        return path.resolve()
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: it shadows nothing
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise error(
            f"there is no Python module {name!r}",
            hint="give the path of a .py file, or run from the folder that holds the module",
        )
    return Path(spec.origin).resolve()


def load(name: str, sha256: str | None, error: type[EdgekitError]) -> tuple[ModuleType, str]:
    """Import the module `name` (see `find`); its content's SHA-256 comes with it.

    With `sha256`, a file of another content is refused before any of it runs (the packages around
    it, which Python imports to find it, have run by then). Its own imports find what lies beside
    it.
    """
    path = find(name, error)
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    if sha256 not in (None, digest):
        raise error(
            f"{path} was edited after it was used for this workspace",
            hint="export into a new folder, or restore the file",
        )
    if not name.endswith(".py") and not name.startswith(BUNDLED):
        with errors_of(path, error):
            return importlib.import_module(name), digest
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return run(source, path, error), digest


class errors_of:
    """Whatever the user's file raises in this block, as an error with file and line."""

    def __init__(self, path: Path, error: type[EdgekitError], doing: str = "") -> None:
        self.path, self.error, self.doing = path, error, doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, EdgekitError) or not isinstance(error, (Exception, SystemExit)):
            return
        line = _line(error, self.path)
        where = f"{self.path}:{line}" if line else str(self.path)
        cause = error.msg if isinstance(error, SyntaxError) else error
        raise self.error(
            f"{where}: {self.doing}{type(error).__name__}: {cause}", hint="correct the file there"
        ) from error


def _line(error: BaseException, path: Path) -> int | None:
    """The line of `path` that the error came from or through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
