"""The kernels in NumPy and float64: their oracle, their documentation, and their stand-ins.

A module here offers the functions of the kernel of the same name, with the same parameters and the
same errors; the kernel's docstrings say what they mean. See `edge_sdk.ext`.
"""
