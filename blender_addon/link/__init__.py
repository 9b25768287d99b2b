# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the backend: a thread that owns the socket, the process, its installation. No bpy in here."""
