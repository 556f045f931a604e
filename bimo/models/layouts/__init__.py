"""Published layouts: detecting, reading and exporting files and folders of weights."""
