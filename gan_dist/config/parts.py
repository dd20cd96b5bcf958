"""Find the class that a `kind` names: a built-in part, or a class in the user's own file or package."""

import contextvars
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from gan_dist import files
from gan_dist.config.section import Part
from gan_dist.errors import InputError

_OWN = re.compile(r"(?P<module>.+\.py|[A-Za-z_][\w.]*\.[\w.]+|[A-Za-z_]\w*(?=:))(?::(?P<name>\w+))?")
_COPY = re.compile(r"^[0-9a-f]{16}-")
_folder: contextvars.ContextVar[Path | None] = contextvars.ContextVar("folder", default=None)
_recorded: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar("recorded", default=None)
_sources: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("sources", default=None)


@contextmanager
def reading(folder: Path | None, recorded: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """Look for users' files in `folder` first while the block lasts; gives {kind: SHA-256 of its file} of what it used.

    `recorded` has the hashes of the run whose directory `folder` is: a file that is gone, or was changed since, is taken
    from the copy that the run keeps.
    """
    sources: dict[str, str] = {}
    tokens = _folder.set(folder), _sources.set(sources), _recorded.set(recorded)
    try:
        yield sources
    finally:
        _folder.reset(tokens[0])
        _sources.reset(tokens[1])
        _recorded.reset(tokens[2])


def copy_of(run: Path, kind: str, digest: str) -> Path | None:
    """Return where a run keeps its copy of the user's file of a kind; None for a kind that no file defines."""
    name = Path(kind.rpartition(":")[0]).name
    return run / "parts" / f"{digest[:16]}-{_COPY.sub('', name)}" if name.endswith(".py") and digest else None


def keep(run: Path, sources: Mapping[str, str]) -> None:
    """Copy the users' files of a config into the run directory, so that the run needs no other folder."""
    for kind, digest in sources.items():
        copy, path = copy_of(run, kind, digest), Path(kind.rpartition(":")[0])
        if copy is None or copy.exists() or not path.is_file():
            continue
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            copy.parent.mkdir(exist_ok=True)
            files.write_atomic(copy, content)


def _kept(kind: str, path: Path | None) -> Path | None:
    """Return the run's copy of a user's file, where `path` is gone or no longer has the recorded content."""
    digest, run = (_recorded.get() or {}).get(kind, ""), _folder.get()
    if run is None or not digest or (path is not None and _digest(path) == digest):
        return path
    copy = copy_of(run, kind, digest)
    return copy.resolve() if copy is not None and copy.is_file() and _digest(copy) == digest else path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find(kind: str, base: type[Part], kinds: Mapping[str, type[Part]], key: str) -> tuple[str, type[Part]]:
    """Return the kind in full (a user's file with its absolute path), and its class.

    `key` is the config key that names it. Raises InputError for an unknown kind, and for a file or class that will not do.
    """
    if kind in kinds:
        return kind, kinds[kind]
    match = _OWN.fullmatch(kind)
    if match is None:
        close = difflib.get_close_matches(kind, kinds, n=3, cutoff=0.5)
        near = f"did you mean {' or '.join(close)}? " if close else ""
        known = f"known are {', '.join(kinds)}" if kinds else "none are built in"
        raise InputError(f"{key} = {kind}: there is no such kind; {near}{known}, or give FILE.py:CLASS of your own")
    module, path = _load(match["module"], key, kind)
    part = _choose(module, match["name"], base, match["module"], key)
    full = f"{path or match['module']}:{part.__name__}"
    if (sources := _sources.get()) is not None:
        source = path or Path(module.__file__ or "")
        sources[full] = _digest(source) if source.is_file() else ""
    return full, part


def _load(name: str, key: str, kind: str) -> tuple[ModuleType, Path | None]:
    """Return the module of a file (with its path) or of an importable name."""
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name), None
        except Exception as error:
            raise InputError(f"{key}: {name} cannot be imported: {type(error).__name__}: {error}") from None
    folder = _folder.get()
    places = [Path(name).expanduser()] if Path(name).is_absolute() or folder is None else [folder / name, Path(name)]
    path = _kept(kind, next((place.resolve() for place in places if place.is_file()), None))
    if path is None:
        where = f" in {folder} or here" if len(places) > 1 else ""
        raise InputError(f"{key}: there is no file {name}{where}; the path is relative to the config file")
    # under the hash of its path and content: an edit within one process is another module
    tag = hashlib.sha256(f"{path}\0".encode() + path.read_bytes()).hexdigest()[:12]
    module_name = f"gan_dist_part_{path.stem}_{tag}"
    if module_name in sys.modules:
        return sys.modules[module_name], path
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f", line {lines[-1]}" if lines else f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InputError(f"{key}: {path}{line} cannot be loaded: {type(error).__name__}: {error}") from None
    return module, path


def _choose(module: ModuleType, name: str | None, base: type[Part], where: str, key: str) -> type[Part]:
    """Return the class of this name, or the only one of the right kind in the file."""
    parent = f"{base.__module__}.{base.__name__}"
    defined = {
        label: value
        for label, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    }
    if name is None:
        if len(defined) == 1:
            return next(iter(defined.values()))
        found = (
            f"it has {', '.join(defined)}"
            if defined
            else f"no class in it inherits {parent}, which holds its config keys"
        )
        raise InputError(f"{key}: {where}: name one class, {where}:CLASS; {found}")
    value = getattr(module, name, None)
    if value is None:
        classes = [label for label, kind in vars(module).items() if isinstance(kind, type)]
        close = difflib.get_close_matches(name, [*defined, *classes], n=1, cutoff=0.5)
        near = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(defined) or 'none that would do'}"
        raise InputError(f"{key}: {where} has no class {name}{near}")
    if not (isinstance(value, type) and issubclass(value, base)):
        raise InputError(
            f"{key}: {where}: {name} has no config class: let it inherit {parent}, and declare its keys there"
        )
    return value
