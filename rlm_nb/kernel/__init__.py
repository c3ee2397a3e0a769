"""Kernels: started, fed with cells, interrupted, replaced, ended."""
