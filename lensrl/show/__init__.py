"""For people: the words, the figures, and the HTML report."""
