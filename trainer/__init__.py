"""Builds what the backend uses: face models, weights, evaluations. Imports backend, never the reverse."""
