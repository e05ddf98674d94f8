"""Code that runs the user's code. With the .pt reader the only place that imports torch."""
