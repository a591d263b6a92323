"""Claims: stated, tested, judged together, and the judge judged on simulated studies."""
