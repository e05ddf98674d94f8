"""How many rows are enough to call others odd: what the rules on sums and on weights share."""

# At least this share of rows must be as they should before the others are called the odd ones.
MOSTLY = 0.5
# Fewer rows than this say nothing about all the others.
FEW = 4
