"""What the user wrote: its normal form, what of it a tower can read, and styles."""
