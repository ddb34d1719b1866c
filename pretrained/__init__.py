"""The shared score-model training module and the checkpoints it made."""
