"""Work that waits for a module, which is slow to import, to be imported anyway."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _Watch(MetaPathFinder):
    """Runs ``action`` when the module ``name`` has been imported."""

    def __init__(self, name: str, action: Callable[[], None]):
        self.name = name
        self.action = action

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType):
                execute(module)
                self.action()

            spec.loader.exec_module = execute_and_act
        return spec


def after_import(name: str, action: Callable[[], None]):
    """Call ``action`` once the module ``name`` is there: now, or when it comes."""
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watch(name, action))
