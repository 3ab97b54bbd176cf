"""What a training loop needs and no model knows: exact resume, saving, signals, peers, measuring."""
