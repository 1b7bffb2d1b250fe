"""Compiled kernels: vectors, registration and the cache. The only folder that depends on Numba's internals."""
