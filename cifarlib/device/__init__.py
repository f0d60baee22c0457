"""How this machine computes a run: device, precision, convolutions, a step as one CUDA graph."""
