"""Elements of scenes: sky, land, water, plants, buildings, people, animals, objects."""
