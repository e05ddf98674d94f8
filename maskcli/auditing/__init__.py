"""Audits of training sets: rows in chunks through the rules, folded into shares, first rows and examples."""
