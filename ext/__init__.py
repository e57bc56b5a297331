"""Kernels: Cython over plain C. No policy, no input or output."""
