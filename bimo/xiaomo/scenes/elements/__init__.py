"""What scenes are made of: sky, land, water, plants, buildings, people, animals, things."""
