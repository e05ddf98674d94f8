"""One file for each kind of evidence; a rule is data plus a pure function."""
