"""A result as a page: one HTML file that needs nothing else."""
