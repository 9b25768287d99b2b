"""Regress, fit, texture: the pipeline that turns a photo into a head."""
