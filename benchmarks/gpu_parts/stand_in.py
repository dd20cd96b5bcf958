"""Let the networks, losses and penalties be imported where pydantic is missing: only their keys need it, not what they make.

A GPU machine without a network may lack it. Sections of keys are then plain objects: nothing validates them, and no config file
can be read. What needs more than that says so (`missing`).
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

PACKAGE = Path(__file__).resolve().parents[2] / "gan_dist"


class _Section:
    """What pydantic's BaseModel is to a section that is made by hand: given values, or those of the class."""

    model_fields: ClassVar[dict[str, Any]] = {}

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def _decorator(*arguments: Any, **named: Any) -> Any:
    return lambda function: function


def _default(default: Any = None, **named: Any) -> Any:
    return named["default_factory"]() if "default_factory" in named else default


class _Generic:
    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __class_getitem__(cls, item: Any) -> Any:
        return item


def _else(name: str) -> Any:
    """Stand in for all else of the module: functions decorate, and types annotate."""
    if name.startswith("_"):
        raise AttributeError(name)
    return _decorator if name.islower() else _Generic


def install() -> bool:
    """Put a stand-in in the place of pydantic where it is missing; returns whether it did."""
    if importlib.util.find_spec("pydantic") is not None:
        return False
    module = types.ModuleType("pydantic")
    module.__dict__.update(
        BaseModel=_Section, ConfigDict=dict, Field=_default, PrivateAttr=_default, ValidationError=ValueError,
        __getattr__=_else,
    )  # fmt: skip
    sys.modules["pydantic"] = module
    return True


def is_installed() -> bool:
    """Whether pydantic is the stand-in."""
    return getattr(sys.modules.get("pydantic"), "BaseModel", None) is _Section


def missing(*modules: str) -> str:
    """What of these cannot be imported here, in words; "" where nothing is missing."""
    lacking = [
        name
        for name in modules
        if (name == "pydantic" and is_installed())
        or (name not in sys.modules and importlib.util.find_spec(name) is None)
    ]
    return f"needs {', '.join(lacking)}" if lacking else ""


def alone(path: str) -> types.ModuleType:
    """A module of the package by its file, for those whose package imports what may be missing: `engine/precision.py`."""
    name = "gan_dist_alone_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, PACKAGE / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
