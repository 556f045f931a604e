"""Model families, one folder each, and shared modules: text encoders, spaces, adapters, layouts."""
