"""Figures: each function draws a table on matplotlib Axes and returns them. `lensrl.plot` gives them their tables."""
