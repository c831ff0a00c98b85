"""A page that shows every part of the design system, for tests and screenshots; no part of the product."""
