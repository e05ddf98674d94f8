"""What belongs together in a file: maps, masks, tokens, and where they stand."""
