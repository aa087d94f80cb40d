"""Output under a grammar: reading what was asked, refusing what cannot be, compiling, matching."""
