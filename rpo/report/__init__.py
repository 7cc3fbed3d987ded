"""What is told about a robot or a run: checks, curves, tables."""
