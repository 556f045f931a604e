"""The mathematics of diffusion, the built system, and the coroutine that draws."""
