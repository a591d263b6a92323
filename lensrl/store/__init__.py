"""The HDF5 files: run files and patching results, written once, read lazily."""
