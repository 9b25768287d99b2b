# SPDX-License-Identifier: GPL-3.0-or-later
"""A reconstruction becomes a collection: head, material, camera, lights."""
