"""Training of our own encoder: configuration, loop, checkpoints, validation. See docs/training.md."""
