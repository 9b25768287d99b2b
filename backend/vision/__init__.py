"""From files to pixels and from pixels to landmarks."""
