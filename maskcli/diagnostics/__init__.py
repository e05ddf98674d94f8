"""Saved arrays to findings: what is wrong with a mask or with attention weights, where, and how to fix it."""
