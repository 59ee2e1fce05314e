"""Python as it is where some packages are not installed: with this folder on PYTHONPATH nobody finds them."""

import sys
from importlib.machinery import PathFinder

ABSENT = {"llvmlite", "numba", "regex", "safetensors", "tqdm"}


class WithoutThem:
    """Finds what PathFinder finds, but for what is absent."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return None
        return PathFinder.find_spec(name, path, target)


sys.meta_path[:] = [WithoutThem if finder is PathFinder else finder for finder in sys.meta_path]
