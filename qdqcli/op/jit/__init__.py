"""Kernels as compiled code: vectors, registration, and the cache; all that knows Numba's internals."""
