"""HunyuanImage-2.1 (Tencent, 2025)."""
