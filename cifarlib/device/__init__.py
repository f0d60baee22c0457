"""How this machine computes a run: which device and precision, convolutions on a CPU, a step as one
graph on CUDA."""
