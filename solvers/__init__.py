"""The numerics: forward processes, grids, noise, solvers, likelihood. Needs torch alone."""
