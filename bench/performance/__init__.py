"""What solvers cost beside the network: overhead, adaptive step control, memory. ``python -m bench.performance``."""
