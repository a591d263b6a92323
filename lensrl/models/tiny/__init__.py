"""The embedded base models, about 0.9 M parameters each, and the programs that make small models."""
