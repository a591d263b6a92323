"""One HDF5 file, written once: nobody opens this folder to understand a study."""
