"""Functions on tensors: a plain torch reference each, then kernels that attach to it."""
