"""Rotations, cameras, alignment and mesh operations: pure arrays in, arrays out, no other room known."""
