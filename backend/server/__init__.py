"""The backend process: one thread that talks, one process that computes."""
