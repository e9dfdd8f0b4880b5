"""Find documents of a corpus that occur more than once: by their text, work, or most words."""
