"""One HDF5 file: write it once, seal it, read it, check it. Studies can be understood without this folder."""
