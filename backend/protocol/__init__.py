"""The wire between Blender and the backend: messages, keys, a client. Standard library, NumPy and pyzmq only.

`build_addon.py` copies this folder into the add-on, so imports in here are relative and nothing of the
backend is known. docs/protocol.md describes the wire for other languages.
"""
