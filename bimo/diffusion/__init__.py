"""The mathematics of diffusion, the built system, and the sampling coroutine."""
