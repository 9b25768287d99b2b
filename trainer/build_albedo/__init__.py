"""The statistical albedo of the default head, learned from flat-lit photos."""
