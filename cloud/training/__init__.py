"""Train a teacher in mixed precision: `loop.train` is the entrance."""
