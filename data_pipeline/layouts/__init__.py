"""How published data sets lie on disk: one function a layout, from a folder to its cases."""
