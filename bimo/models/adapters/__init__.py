"""Adapters for a built system: LoRA, ControlNet, T2I-Adapter, IP-Adapter."""
