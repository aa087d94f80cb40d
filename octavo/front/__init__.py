"""From what a user asked to engine requests, and from deltas to what a user reads. The same code
serves HTTP and offline use. Never torch."""
