"""The bundled model 小墨: its artwork, procedurally drawn scenes and dishes, their captions, verses, and its parts."""
