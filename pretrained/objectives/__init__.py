"""What a score model is trained to: the loss, its weighting over time, and the law of the times it is taken at."""
