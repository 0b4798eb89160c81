"""Keeps the package's modules when Streamlit drops them.

When a source file of an app changes, Streamlit deletes the app's modules from ``sys.modules``, and this package's with
them if it lies among the app's files. Loading it again would make a second state, and an extension module cannot be
initialised twice. So the modules are kept in one that has no file, which Streamlit leaves alone.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_HOME = "_fastserverstate_modules"


def restore() -> None:
    """Put back the modules that `keep` has seen."""
    home: Any = sys.modules.get(_HOME)
    if home is not None:
        sys.modules.update(home.modules)
        for name, module in home.modules.items():
            setattr(sys.modules[__package__], name.rpartition(".")[2], module)


def keep() -> None:
    """Remember the package's modules. The first call in a process decides."""
    if _HOME not in sys.modules:
        home: Any = ModuleType(_HOME, __doc__)
        home.modules = {}
        sys.modules[_HOME] = home
        keep_also()


def keep_also() -> None:
    """Remember those that were imported since, too."""
    home: Any = sys.modules[_HOME]
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{__package__}."):
            home.modules.setdefault(name, module)
