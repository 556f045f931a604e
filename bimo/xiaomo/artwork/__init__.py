"""The artwork that 小墨 learns from: sprites, canvases, captions."""
