"""Where and how a system runs: device, dtype, offload, memory."""
