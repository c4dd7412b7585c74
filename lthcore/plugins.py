"""Plugins: files with user-defined networks, criteria, data sets and arms, and their transfer to worker processes.

A plugin is a Python file that registers what it defines. It runs only if the user names it, with `--plugin` or in
LTH_PLUGINS (several are separated as in PATH). A params file can state that it needs a plugin, but never runs it.
"""

import importlib.util
import os
import pickle
import re
import sys
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import cloudpickle

from lthcore.arms import ARMS, OURS
from lthcore.errors import LabError, one_line, shown
from lthcore.paths import project_root
from lthcore.registry import MODELS, is_user_defined
from lthcore.sources.catalogue import DATASETS

NAMED = "LTH_PLUGINS"


class PluginNeeded(LabError):
    """A params file needs a plugin that the user has not named."""


def load_plugins() -> None:
    """Run the files named in LTH_PLUGINS, each once per process. Raises LabError if one does not exist or fails."""
    for name in filter(None, os.environ.get(NAMED, "").split(os.pathsep)):
        path = _found(name)
        if not path.is_file():
            raise LabError(f"plugin {name}: there is no such file")
        module = _module_of(path)
        if module in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module, path)
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except (Exception, SystemExit) as error:
            del sys.modules[module]
            raise LabError(f"plugin {path}: {type(error).__name__}: {one_line(error)}") from error


def check_plugins(names: object) -> None:
    """Raise PluginNeeded if a plugin that a params file needs has not been run, since only the user may name it.

    `names` is a file name, a list of file names, or None. Raises LabError for anything else.
    """
    needed = [names] if isinstance(names, str) else [] if names is None else names
    if not isinstance(needed, list) or not all(isinstance(name, str) for name in needed):
        raise LabError(f"plugins = {shown(names)}: must be the name of a file, or a list of names")
    for name in needed:
        if _module_of(_found(name)) not in sys.modules:
            raise PluginNeeded(f"this experiment needs the plugin {name}, which is code: run it by --plugin {name}")


def extensions() -> bytes:
    """Return the user-defined networks, data sets and arms, pickled for another process; empty if there are none.

    That process calls `register_received`.
    Functions are pickled by value, so the other process does not need the notebook or file that defines them.
    """
    models = {name: model for name, model in MODELS.items() if is_user_defined(model)}
    datasets = {
        name: replace(known, reader=None, fetch=None, test_here=None)  # training runs are given their data
        for name, known in DATASETS.items()
        if is_user_defined(known.reader) or name.endswith(".npz")
    }
    arms = {name: arm for name, arm in ARMS.items() if name not in OURS}
    if not models and not datasets and not arms:
        return b""
    for model in models.values():
        module = sys.modules.get(model.__module__)
        if module is not None and module.__name__ != "__main__":
            cloudpickle.register_pickle_by_value(module)
    return cloudpickle.dumps((models, datasets, arms))


def register_received(carried: bytes) -> None:
    """Register in this process what `extensions` returned in another process."""
    if carried:
        models, datasets, arms = pickle.loads(carried)
        MODELS.update(models)
        DATASETS.update(datasets)
        ARMS.update(arms)


def _found(name: str) -> Path:
    return next((p.resolve() for p in (Path(name), project_root() / name) if p.is_file()), Path(name).resolve())


def _module_of(path: Path) -> str:
    digest = blake2b(str(path).encode(), digest_size=4).hexdigest()
    return f"lth_plugin_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"
