"""What the bundled model 小墨 learns from: scenes and dishes drawn by procedure, their captions, and the verses."""
