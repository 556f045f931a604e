"""题字: text in a picture, set in a font, made the picture's own, read back stroke by stroke, and certified."""
