"""What model files are written with."""
