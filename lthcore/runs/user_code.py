"""Digests of user-defined code, by which a run notices that its network, a criterion or an arm was changed."""

import ast
import inspect
import re
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from lthcore.arms import arm_of, criterion_of
from lthcore.lottery.start import WEIGHTS
from lthcore.recipe import Recipe
from lthcore.registry import CRITERIA, MODELS, is_user_defined
from lthcore.sources.dataset import DATASETS


def digests_of_user_code(settings: Recipe) -> dict[str, str]:
    """Return digests of the user-defined code that a run uses: its network, criteria and arms, by kind and name.

    The functions and classes that these refer to, directly or through each other, have digests of their own, as
    `Block of architecture vit`, unless they are from this package, the standard library or an installed package.
    Constants that the code refers to count; comments, docstrings, layout, quotes, labels and colours do not. Code
    without source text, such as what is typed into an interpreter, is left out. How the pixels of a user-defined data
    set are standardised has a digest, too; the digest of its images does not cover it.
    """
    arms = {name: arm_of(name) for name in getattr(settings, "arms", ())}
    names = {getattr(settings, "criterion", ""), *(criterion_of(arm.masks) for arm in arms.values())}
    criteria = [CRITERIA[name] for name in sorted(names) if name in CRITERIA]
    used = {f"architecture {settings.architecture}": (MODELS.get(settings.architecture), None)}
    used |= {f"criterion {c.name}": (c.score, (c.prunes, c.trained, c.uses_best)) for c in criteria}
    used |= {
        f"arm {name}": (
            WEIGHTS.get(arm.weights),
            # a field at its default adds nothing, so that digests in older records stay valid
            (arm.masks, arm.shuffled, arm.drawn, arm.sigmas, arm.fine_tuned, *(["resumes"] if arm.resumes else [])),
        )
        for name, arm in arms.items()
    }
    texts: dict[str, list[str]] = {}
    for name, (function, about) in used.items():
        if function is not None and is_user_defined(function):
            for item, text in _code_of(function).items():
                key = name if item is function else f"{item.__name__} of {name}"
                texts.setdefault(key, []).append(f"{text}\n{about}" if about and item is function else text)
    known = DATASETS.get(settings.dataset)
    if known and known.reader and is_user_defined(known.reader) and settings.input_scaling == "standardised":
        texts[f"data set {known.name}"] = [f"{known.mean} {known.std}"]
    return {key: blake2b("\n".join(sorted(some)).encode(), digest_size=8).hexdigest() for key, some in texts.items()}


def _code_of(function: Callable) -> dict[Callable, str]:
    """Return the text of a user-defined function, and of the user-defined functions and classes that it refers to."""
    found, todo = {}, [function]
    while todo:
        item = todo.pop()
        if item in found:
            continue
        try:
            node = _parsed(item)
        except (OSError, TypeError, SyntaxError):
            continue
        named = _named_in(node, item)
        constants = sorted(f"{name} = {value!r}" for name, value in named.items() if _is_constant(value))
        text = "\n".join([ast.unparse(node), *constants])
        found[item] = re.sub(r"[\"'\\]", "", text)  # versions of Python quote f-strings differently
        code = [other for value in named.values() for other in _code_in(value)]
        todo += [other for other in code if other.__module__ == function.__module__ or _is_users(other.__module__)]
    return found


def _code_in(value: object) -> list[Callable]:
    """Return the functions and classes that a value is or contains, as in a table of blocks by name."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [code for part in value for code in _code_in(part)]
    return [value] if inspect.isfunction(value) or inspect.isclass(value) else []


def _parsed(item: Callable) -> ast.FunctionDef | ast.ClassDef:
    """Return the definition of a function or class without decorators and docstrings.

    Raises OSError or TypeError if there is no source text, and SyntaxError for text that is not a definition.
    """
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(item))).body[0]
    except (OSError, TypeError):
        if not inspect.isclass(item):
            raise
        node = _class_by_its_methods(item)
    node.decorator_list = []
    for part in ast.walk(node):
        if (
            isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(part) is not None
        ):
            part.body = part.body[1:] or [ast.Pass()]
    return node


def _class_by_its_methods(item: type) -> ast.ClassDef:
    """Return the definition of a class of a notebook, where Python knows the source text of functions alone."""
    for method in filter(inspect.isfunction, vars(item).values()):
        with suppress(OSError):
            lines, at = inspect.findsource(method)
            for node in ast.walk(ast.parse("".join(lines))):
                if (
                    isinstance(node, ast.ClassDef)
                    and node.name == item.__name__
                    and node.lineno <= at < node.end_lineno
                ):
                    return node
    raise OSError(f"no source text of {item.__name__}")


def _named_in(node: ast.AST, item: Callable) -> dict[str, object]:
    """Return what the definition of `item` names outside itself, also as `module.name`, by these names."""
    names = dict(vars(sys.modules[item.__module__])) if item.__module__ in sys.modules else {}
    if inspect.isfunction(item):
        item = inspect.unwrap(item)
        names = item.__globals__ | inspect.getclosurevars(item).nonlocals

    def value(part: ast.AST) -> object:
        if isinstance(part, ast.Name):
            return names.get(part.id)
        module = value(part.value) if isinstance(part, ast.Attribute) else None
        if not inspect.ismodule(module):
            return None
        found = vars(module).get(part.attr)
        return found if not _is_constant(found) or _is_users(module.__name__) else None  # sys.platform is no constant

    parts = {ast.unparse(part): part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)}
    named = {name: value(part) for name, part in parts.items() if not name.startswith("__")}  # not __file__
    return {name: found for name, found in named.items() if found is not None}


def _is_constant(value: object) -> bool:
    """Return whether a value is a number or a text, or consists of such."""
    if isinstance(value, tuple | list):
        return all(map(_is_constant, value))
    if isinstance(value, dict):
        return all(map(_is_constant, [*value.keys(), *value.values()]))
    return type(value) in (bool, int, float, str)


def _is_users(module: str) -> bool:
    """Return whether a module is not of this package, the standard library or an installed package."""
    path = Path(getattr(sys.modules.get(module), "__file__", None) or sysconfig.get_path("stdlib"))
    installed = path.is_relative_to(sysconfig.get_path("stdlib")) or {"site-packages", "dist-packages"} & {*path.parts}
    return not f"{module}.".startswith("lthcore.") and not installed
