"""Text generation on exported folders, by other programs' engines behind one protocol."""
