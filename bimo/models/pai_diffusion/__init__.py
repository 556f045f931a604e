"""PAI's latent diffusion (EasyNLP)."""
