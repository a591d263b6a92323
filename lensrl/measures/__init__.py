"""Measures: pure functions on arrays, with NumPy and SciPy. No module here imports torch or opens a file."""
