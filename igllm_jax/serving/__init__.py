"""A page to try a model on: requests answered together, drawings of answers, and the page itself."""
