"""Small networks beside a frozen base: nothing is propagated back through it."""
