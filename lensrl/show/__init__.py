"""Output for people: labels, figures, and the HTML report."""
