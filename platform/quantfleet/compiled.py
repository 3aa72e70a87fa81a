"""What compiled loops need: arrays that look alike, and machine code on disk that never goes stale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["compiled", "read_only"]

T = TypeVar("T", bound=np.generic)
Loop = TypeVar("Loop", bound=Callable[..., Any])


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """The array contiguous and closed to writing, a view where it can be.

    Polars and Arrow hand out columns that may be written or not, as it happens, and numba compiles a loop anew for each mixture:
    seconds, in the middle of a run. Inputs that all look alike are compiled once.
    """
    view: npt.NDArray[Any] = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def compiled(*callees: ModuleType) -> Callable[[Loop], Any]:
    """Compile with numba, without the GIL, and keep the machine code on disk until this file or one of `callees` changes.

    Numba looks at a function's own file only. A caller of functions in another file holds them inlined, and would go on running
    their old code after an edit: for arithmetic of money that is not an option.
    """
    from numba import njit

    def decorate(loop: Loop) -> Any:
        dispatcher = njit(nogil=True, cache=True)(loop)
        index = dispatcher._cache._cache_file
        stats = [Path(str(module.__file__)).stat() for module in callees]
        index._source_stamp = (index._source_stamp, *((stat.st_mtime, stat.st_size) for stat in stats))
        return dispatcher

    return decorate
