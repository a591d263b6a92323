"""Pure functions on arrays: NumPy and SciPy, no torch, no files."""
