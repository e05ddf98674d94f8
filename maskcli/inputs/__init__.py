"""What the arguments of a command stand for: files, tensors in them, specs, texts."""
