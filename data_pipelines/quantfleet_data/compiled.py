"""What compiled loops need of the arrays they are given."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["read_only"]

T = TypeVar("T", bound=np.generic)


def read_only(array: npt.NDArray[T]) -> npt.NDArray[T]:
    """The array contiguous and closed to writing, a view where it can be.

    Polars and Arrow hand out columns that may be written or not, as it happens, and numba compiles a loop anew for each mixture:
    seconds, in the middle of a run. Inputs that all look alike are compiled once.
    """
    view: npt.NDArray[Any] = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
