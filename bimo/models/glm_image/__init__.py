"""GLM-Image (智谱, 2026): an autoregressive prior writes tokens, a transformer draws from them."""
