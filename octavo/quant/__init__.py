"""Ways of storing projections, one a file."""
