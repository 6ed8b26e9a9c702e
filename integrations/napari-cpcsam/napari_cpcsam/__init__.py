"""napari plugin for a CPC-SAM gateway."""
