"""The model: loading it, its blocks, sampling from it, scoring it, its hooks; and the embedded ones."""
