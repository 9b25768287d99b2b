# SPDX-License-Identifier: GPL-3.0-or-later
"""What the artist can click, one file for each subject."""
