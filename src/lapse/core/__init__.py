"""The algebra of noise, its masks and the equations of the cells: NumPy, and nothing above it."""
