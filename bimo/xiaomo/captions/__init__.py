"""What people would type to get a scene or a dish: names, moods, styles, verses, in Chinese and English."""
