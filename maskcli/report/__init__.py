"""Results to what people see and scripts read."""
