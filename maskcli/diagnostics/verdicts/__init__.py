"""What explains a map of weights."""
