"""Procedurally drawn Chinese scenes: a subject composes a description, a style renders it.

A picture is drawn in two steps. A *subject* (`subjects`) puts elements (`sky`, `terrain`, `plants`, `buildings`,
`figures`) into a `Scene`: shapes of named materials in unit coordinates, far to near. A *style* (`styles`) renders any
scene with its own paper, palette and brush. All random numbers are derived from the key.
"""
