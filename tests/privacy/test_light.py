"""A site without the extras imports all of the package: what is optional is imported where it is needed."""

import subprocess
import sys


def test_the_package_loads_nothing_optional():
    code = """
import importlib, pkgutil, sys
import smallhold.privacy as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()
    assert "numpy" in loaded
    assert not {"torch", "scipy", "tenseal", "dp_accounting", "opacus", "transformers"} & set(loaded)
