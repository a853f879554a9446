"""What all tests share."""

from hypothesis import settings

# Shared runners stall now and then: a slow example is no failure.
settings.register_profile("chainroom", deadline=None, max_examples=60)
settings.load_profile("chainroom")
