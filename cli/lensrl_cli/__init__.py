"""The `lensrl` command: one small module per verb, no science in it."""
