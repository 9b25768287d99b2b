"""Protocols that say how good a reconstruction is."""
