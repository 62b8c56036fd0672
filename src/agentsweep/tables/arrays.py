"""Columns as arrays: of whole numbers (times in ns), of numbers (NaN is null), of truths."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
# Of either kind of number.
Numbers = Ints | Floats
