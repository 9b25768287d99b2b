"""The commands of ``mgcface``, one small module each; only :mod:`backend.cli` knows them."""
