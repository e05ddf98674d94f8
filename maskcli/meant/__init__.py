"""What the user declared: facts, and a model's config.json."""
