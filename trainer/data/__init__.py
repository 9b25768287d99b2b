"""Synthetic people and the data that trainers learn from."""
