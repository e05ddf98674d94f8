"""Numbers from passes over saved tensors."""
