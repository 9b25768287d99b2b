"""MGC Face backend: photos in, heads out."""

__version__ = "0.1.0"
