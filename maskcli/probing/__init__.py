"""Masks measured from behaviour: which positions of its input change which positions of a module's output."""
