"""The folder is the registry: one file a method, and the file's name is its name in YAML."""

import difflib
import importlib
import inspect
import pkgutil

from losses.base import Method


def method_names() -> list[str]:
    """Names of all methods, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def method_class(name: str) -> type[Method]:
    """The method defined in ``losses/methods/<name>.py``.

    Raises:
        ValueError: there is no such file, or it does not define exactly one method.
    """
    if name not in method_names():
        close = difflib.get_close_matches(name, method_names(), n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise ValueError(f'unknown method "{name}"{hint} Known: {", ".join(method_names())}')
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(f"losses/methods/{name}.py must define one Method, found {len(found)}")
    return found[0]
