"""Let `import gan_dist` work in the folder above a clone that is named gan_dist.

Python would take the clone for a namespace package there, and stop looking. This file, which is no part of the
installed package, puts the package one level down in its place.
"""

import importlib.util
import sys
from pathlib import Path

_package = Path(__file__).resolve().parent / "gan_dist"
_spec = importlib.util.spec_from_file_location(
    __name__, _package / "__init__.py", submodule_search_locations=[str(_package)]
)
assert _spec is not None
assert _spec.loader is not None
sys.modules[__name__] = _module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
for _name, _part in list(sys.modules.items()):  # pytest imports this file after parts of the package
    if _name.rpartition(".")[0] == __name__:
        setattr(_module, _name.rpartition(".")[2], _part)
