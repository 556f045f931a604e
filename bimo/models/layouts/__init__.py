"""Published layouts: detection, folders, export."""
